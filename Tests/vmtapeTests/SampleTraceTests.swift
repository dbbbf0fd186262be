import TestSupport
import Testing
import Trace

/// The traces in `traces/`, read as a user without KVM would.
@Suite struct SampleTraceTests {
    private static let names = ["echo-hello", "echo-jello", "swift-kernel", "triple-fault"]

    private static func path(_ name: String) -> String {
        "\(Files.repository)/traces/\(name).vmtape"
    }

    @Test("a sample trace is sound and complete", arguments: names)
    func isSound(name: String) throws {
        let reader = try TraceReader(path: Self.path(name))
        let report = reader.verify()
        #expect(report.isSound)
        #expect(report.isComplete)
        #expect(report.readableExits == reader.exitCount)
        #expect(reader.exitCount > 100)
        #expect(report.hasMemoryDigest)
    }

    @Test("symbols of another build are warned of, and do not take the image's place")
    func symbolsOfAnotherBuild() throws {
        let result = try ChildProcess.run(
            ["dump", Self.path("echo-hello"), "0", "--symbols", Files.sample("ring3")])
        #expect(result.ending == .status(0))
        #expect(result.output.contains("uart_write_byte+0x10"))
        #expect(result.errorLines.count == 1)
        #expect(result.errors.contains("build-id"))
        #expect(result.errors.contains("ring3"))
    }

    @Test("two runs that differ in one typed byte are told apart by it")
    func differByInput() throws {
        let result = try ChildProcess.run(
            ["diff", Self.path("echo-hello"), Self.path("echo-jello")])
        #expect(result.ending == .status(1))
        #expect(result.output.contains("First difference: exit 85"))
        #expect(result.output.contains("A  answer 68 'h', at exit 85"))
        #expect(result.output.contains("B  answer 6a 'j', at exit 85"))
        #expect(result.errors == "")
    }
}
