import Execution
import Guest
import KVM
import Machine
import Trace

/// A world whose devices leave RAM alone, and where completions are the runner's affair.
protocol PlainWorld: World, ~Copyable {}

extension PlainWorld where Self: ~Copyable {
    mutating func deviceWrites(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> [DeviceWrite] { [] }

    mutating func completesInstruction() throws(ExecutionError) -> Bool { true }

    mutating func changesToMake(_ carriedOut: [Change]?) throws(ExecutionError) -> [Change]? {
        carriedOut
    }
}

/// A world without clock and interrupts too, for tests of what has nothing to do with them.
protocol QuietWorld: PlainWorld, ~Copyable {}

extension QuietWorld where Self: ~Copyable {
    mutating func timeStamp() throws(ExecutionError) -> UInt64 { 0 }

    mutating func cpuid(
        function: UInt32, index: UInt32, system: borrowing SystemRegisters
    ) throws(ExecutionError) -> CPUIDAnswer { CPUIDAnswer(eax: 0, ebx: 0, ecx: 0, edx: 0) }

    mutating func hasInterrupt() throws(ExecutionError) -> Bool { false }

    mutating func acknowledgeInterrupt() throws(ExecutionError) -> UInt8 { 0 }
}

/// A listener whom completions and devices do not concern.
protocol PlainListener: RunListener, ~Copyable {}

extension PlainListener where Self: ~Copyable {
    mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool { true }

    mutating func deviceWrite(_ write: DeviceWrite) throws(ExecutionError) -> Bool { true }
}

/// A CPU whose memory nothing changes, and that stands nowhere to go back to.
protocol ForwardCPU: Processor, ~Copyable {}

extension ForwardCPU where Self: ~Copyable {
    mutating func hasEventUnderWay() throws(KVMError) -> Bool { false }
    func changedPages() -> [MemoryDigest.Page] { [] }
    mutating func markPages() {}
    mutating func keepPlace(_ memory: borrowing GuestMemory) throws(ExecutionError) {}
    mutating func returnToPlace(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool { false }
}

/// A CPU of which no instruction is completed.
protocol PlainCPU: ForwardCPU, ~Copyable {}

extension PlainCPU where Self: ~Copyable {
    mutating func extendedState() throws(KVMError) -> ExtendedState {
        ExtendedState(mxcsr: 0x1F80, mxcsrMask: 0xFFFF, x87Status: 0, xcr0: 1)
    }

    mutating func apply(_ changes: [Change]) throws(KVMError) {}
}
