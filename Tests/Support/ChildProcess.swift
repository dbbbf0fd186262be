public import Glibc
import Synchronization

/// Held while descriptors exist that a child born elsewhere must not get.
let descriptorLock = DescriptorLock()

/// A mutual exclusion that can be held to the end of a function.
final class DescriptorLock: Sendable {
    private let isHeld = Mutex(false)

    func lock() {
        // Children are started in microseconds.
        while isHeld.withLock({ held in
            defer { held = true }
            return held
        }) { sched_yield() }
    }

    func unlock() { isHeld.withLock { $0 = false } }
}

/// A vmtape that runs as a process of its own.
public final class ChildProcess {
    /// How a process ended.
    public enum Ending: Equatable, Sendable {
        /// With this status.
        case status(Int32)
        /// By this signal.
        case signal(Int32)
    }

    /// Where standard input, output and error go.
    public enum Stream {
        /// Nothing to read; what is written vanishes.
        case null
        /// The other end is a pipe of this process's.
        case pipe
        /// A descriptor of the caller's.
        case descriptor(Int32)
    }

    /// The process's number.
    public let pid: pid_t
    /// What it writes; one ends where it closes them.
    public let output: DescriptorReader
    /// What it writes on stderr.
    public let errors: DescriptorReader
    private var inputEnd: Int32
    private var ending: Ending?

    /// The vmtape that was built with these tests.
    public static let vmtape: String = {
        var buffer = [CChar](repeating: 0, count: 4096)
        // SAFETY: one byte less than the buffer has, so that it ends with a zero.
        let length = unsafe readlink("/proc/self/exe", &buffer, buffer.count - 1)
        let path = String(
            decoding: buffer[..<max(0, length)].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        var places = ["/" + path.split(separator: "/").dropLast().joined(separator: "/")]
        // A test bundle that is loaded by a helper of the toolchain's.
        for argument in CommandLine.arguments where argument.contains(".xctest") {
            places.append(
                "/" + argument.split(separator: "/").dropLast().joined(separator: "/"))
        }
        places.append("\(Files.repository)/.build/debug")
        return places.map { "\($0)/vmtape" }.first { Files.exists($0) } ?? "vmtape"
    }()

    /// Starts a program.
    ///
    /// - Parameters:
    ///   - environment: added to this process's own; NO_COLOR and TERM are taken out of that.
    ///   - directory: where it is started.
    public init(
        _ arguments: [String], program: String = ChildProcess.vmtape,
        input: Stream = .null, output: Stream = .pipe, errors: Stream = .pipe,
        environment: [String: String] = [:], directory: String? = nil
    ) throws(SupportError) {
        var program = program
        var arguments = arguments
        if let directory {
            arguments = ["-c", "cd \"$0\" && exec \"$@\"", directory, program] + arguments
            program = "/bin/sh"
        }
        // Descriptors are open without FD_CLOEXEC for a moment: no other child may be born in it.
        descriptorLock.lock()
        defer { descriptorLock.unlock() }
        var toClose: [Int32] = []
        defer { for descriptor in toClose { close(descriptor) } }
        let input = try Self.open(input, isInput: true, &toClose)
        let output = try Self.open(output, isInput: false, &toClose)
        let errors = try Self.open(errors, isInput: false, &toClose)
        let ends = [input.theirs, output.theirs, errors.theirs]
        inputEnd = input.ours
        self.output = DescriptorReader(owning: output.ours)
        self.errors = DescriptorReader(owning: errors.ours)
        pid = try Self.spawn(
            program, arguments, ends: ends, environment: environment)
    }

    deinit {
        if ending == nil {
            kill(SIGKILL)
            _ = wait()
        }
        closeInput()
    }

    private static func open(
        _ stream: Stream, isInput: Bool, _ toClose: inout [Int32]
    ) throws(SupportError) -> (ours: Int32, theirs: Int32) {
        switch stream {
        case .descriptor(let descriptor): return (-1, descriptor)
        case .null:
            // SAFETY: a constant string.
            let null = unsafe Glibc.open("/dev/null", O_RDWR | O_CLOEXEC)
            toClose.append(null)
            return (-1, null)
        case .pipe:
            var ends: [Int32] = [-1, -1]
            // SAFETY: pipe fills two descriptors, and the array has two.
            guard unsafe Glibc.pipe(&ends) == 0 else { throw SupportError("pipe", errno: errno) }
            for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
            let theirs = isInput ? ends[0] : ends[1]
            toClose.append(theirs)
            return (isInput ? ends[1] : ends[0], theirs)
        }
    }

    private static func spawn(
        _ program: String, _ arguments: [String], ends: [Int32],
        environment: [String: String]
    ) throws(SupportError) -> pid_t {
        var variables: [String] = []
        var at = unsafe environ
        // SAFETY: environ is an array of strings that ends with nil.
        while let entry = unsafe at.pointee {
            let text = unsafe String(cString: entry)
            let name = text.prefix { $0 != "=" }
            if !["NO_COLOR", "TERM", "COLUMNS"].contains(name), environment[String(name)] == nil {
                variables.append(text)
            }
            unsafe at += 1
        }
        variables += environment.map { "\($0.key)=\($0.value)" }
        var actions = unsafe posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        // SAFETY: both are initialised here and destroyed below; the descriptors are open, and
        // the arrays of strings outlive the call, copies of which are freed after it.
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawnattr_init(&attributes)
        defer {
            unsafe posix_spawn_file_actions_destroy(&actions)
            unsafe posix_spawnattr_destroy(&attributes)
        }
        for (number, end) in ends.enumerated() {
            unsafe posix_spawn_file_actions_adddup2(&actions, end, Int32(number))
        }
        // The signals' defaults, whatever this process does with them.
        var all = sigset_t()
        var none = sigset_t()
        unsafe sigfillset(&all)
        unsafe sigemptyset(&none)
        unsafe posix_spawnattr_setsigdefault(&attributes, &all)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setflags(
            &attributes, Int16(POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK))
        var argv = unsafe ([program] + arguments).map { unsafe strdup($0) } + [nil]
        var envp = unsafe variables.map { unsafe strdup($0) } + [nil]
        defer {
            unsafe (argv + envp).withUnsafeBufferPointer { strings in
                for index in strings.indices { unsafe free(strings[index]) }
            }
        }
        var pid = pid_t()
        let failure = unsafe posix_spawn(&pid, program, &actions, &attributes, &argv, &envp)
        guard failure == 0 else { throw SupportError("starting \(program)", errno: failure) }
        return pid
    }

    /// Sends a signal.
    public func kill(_ signal: Int32) {
        if ending == nil { _ = Glibc.kill(pid, signal) }
    }

    /// Writes to its standard input.
    public func write(_ text: String) {
        let bytes = Array(text.utf8)
        // SAFETY: the array's bytes, alive through the call.
        _ = unsafe Glibc.write(inputEnd, bytes, bytes.count)
    }

    /// Ends its standard input.
    public func closeInput() {
        if inputEnd >= 0 { close(inputEnd) }
        inputEnd = -1
    }

    /// Waits until it has computed for some clock ticks from now on (proc_pid_stat(5)).
    public func waitForProcessorTime() throws(SupportError) {
        let start = try processorTicks()
        while try processorTicks() < start + 5 {
            _ = poll(nil, 0, 2)
        }
    }

    private func processorTicks() throws(SupportError) -> UInt64 {
        guard let text = Files.text("/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else {
            throw SupportError("/proc/\(pid)/stat cannot be read")
        }
        // After the name: state is field 3, user and system time are fields 14 and 15.
        let fields = text[end...].split(separator: " ")
        guard fields.count > 13, fields[1] != "Z", let user = UInt64(fields[12]),
            let system = UInt64(fields[13])
        else { throw SupportError("the process has ended: \(text)") }
        return user + system
    }

    /// Waits until it has ended.
    public func wait() -> Ending {
        if let ending { return ending }
        var status: Int32 = 0
        // SAFETY: waitpid fills the one number it is given.
        while unsafe waitpid(pid, &status, 0) < 0, errno == EINTR {}
        // The macros of <sys/wait.h> do not import.
        let ended: Ending =
            status & 0x7F == 0 ? .status(status >> 8 & 0xFF) : .signal(status & 0x7F)
        ending = ended
        return ended
    }

    /// What came of a process that was run to its end.
    public struct Result {
        /// How it ended.
        public var ending: Ending
        /// What it wrote on stdout.
        public var output: String
        /// What it wrote on stderr.
        public var errors: String

        /// The lines on stderr.
        public var errorLines: [String] {
            errors.split(separator: "\n", omittingEmptySubsequences: true).map(String.init)
        }
    }

    /// Runs vmtape to its end.
    public static func run(
        _ arguments: [String], program: String = ChildProcess.vmtape, input: Stream = .null,
        environment: [String: String] = [:], directory: String? = nil
    ) throws(SupportError) -> Result {
        let child = try ChildProcess(
            arguments, program: program, input: input, environment: environment,
            directory: directory)
        // Where it hangs, it is killed as the child goes.
        try DescriptorReader.drain([child.output, child.errors])
        return Result(
            ending: child.wait(), output: child.output.text, errors: child.errors.text)
    }
}
