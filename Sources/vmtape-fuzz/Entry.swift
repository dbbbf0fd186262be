internal import Glibc

#if FUZZER
    /// The target, read from the command line by the first call.
    private let target: Target = {
        guard let target = Target.chosen(CommandLine.arguments) else {
            complain("vmtape-fuzz: say which target: \(Target.usage)")
            exit(64)
        }
        return target
    }()

    /// libFuzzer's first call: `--make-seeds` is served here, so that one build does for both.
    @_cdecl("LLVMFuzzerInitialize")
    public func initializeFuzzer(
        _ count: UnsafeMutablePointer<Int32>?, _ arguments: UnsafeMutableRawPointer?
    ) -> Int32 {
        if let status = Seeds.make(CommandLine.arguments) { exit(status) }
        return 0
    }

    /// libFuzzer's entry: one input.
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzOneInput(_ data: UnsafePointer<UInt8>?, _ count: Int) -> Int32 {
        // SAFETY: libFuzzer gives `count` bytes that live through the call.
        target.run(unsafe Array(UnsafeBufferPointer(start: data, count: count)))
        return 0
    }
#else
    /// Without the fuzzer: writes seeds, or runs a target on the files that are given.
    @main
    enum VMTapeFuzz {
        static func main() {
            let arguments = Array(CommandLine.arguments.dropFirst())
            if let status = Seeds.make(CommandLine.arguments) { exit(status) }
            guard let target = Target.chosen(arguments) else {
                complain(
                    "usage: vmtape-fuzz \(Target.usage) FILE...\n"
                        + "       vmtape-fuzz --make-seeds=DIRECTORY [SAMPLES]")
                exit(64)
            }
            for path in arguments where !path.hasPrefix("--") {
                guard let bytes = contents(of: path) else {
                    complain("vmtape-fuzz: \(path) cannot be read")
                    exit(2)
                }
                target.run(bytes)
            }
        }
    }
#endif
