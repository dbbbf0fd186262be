import Execution
import Machine
import Trace

/// A world without clock and interrupts, for tests of what has nothing to do with them.
protocol QuietWorld: World, ~Copyable {}

extension QuietWorld where Self: ~Copyable {
    mutating func timeStamp() throws(ExecutionError) -> UInt64 { 0 }

    mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer { CPUIDAnswer(eax: 0, ebx: 0, ecx: 0, edx: 0) }

    mutating func completesInstruction() throws(ExecutionError) -> Bool { true }

    mutating func changesToMake(_ carriedOut: [Change]?) throws(ExecutionError) -> [Change]? {
        carriedOut
    }

    mutating func hasInterrupt() throws(ExecutionError) -> Bool { false }

    mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 { 0 }
}
