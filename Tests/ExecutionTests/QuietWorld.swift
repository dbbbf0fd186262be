@testable import Execution
import Guest
import KVM
import Machine
import Trace

/// A world whose devices leave RAM alone, and where completions are the runner's affair: interrupts
/// come at exits only, there is no local APIC, and nothing arrives but what the guest gets.
protocol PlainWorld: World, ~Copyable {}

extension PlainWorld where Self: ~Copyable {
    mutating func deviceWrites(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> [DeviceWrite] { [] }

    mutating func completesInstruction() throws(ExecutionError) -> Bool { true }

    mutating func changesToMake(_ carriedOut: [Change]?) throws(ExecutionError) -> [Change]? {
        carriedOut
    }

    mutating func nextRewriting() throws(ExecutionError) -> GuestVirtualAddress? { nil }
    var choosesRewritings: Bool { true }
    mutating func processorHolds(
        taskPriorityClass: UInt64, apicBase: UInt64
    ) throws(ExecutionError) {}
    mutating func hasNonMaskableInterrupt() throws(ExecutionError) -> Bool { false }
    mutating func acknowledgeNonMaskableInterrupt() throws(ExecutionError) {}
    mutating func kickDelay() throws(ExecutionError) -> UInt64? { nil }
    mutating func hasOverdueInterrupt() throws(ExecutionError) -> Bool { false }
    var watchesSilence: Bool { false }
    mutating func silence(
        exitCount: UInt64, progress: UInt64?, canWake: Bool
    ) throws(ExecutionError) -> Ending? { nil }
    mutating func landmark() throws(ExecutionError) -> Landmark? { nil }
    mutating func missed(_ miss: LandmarkMiss) {}
    var isLeavingTape: Bool { false }
    mutating func leaveTape() throws(ExecutionError) {}
    var hasArrivals: Bool { false }
    mutating func tellArrivals<Listener: RunListener & ~Copyable>(
        _ listener: inout Listener
    ) throws(ExecutionError) {}
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

/// A listener whom completions, devices and arrivals do not concern.
protocol PlainListener: RunListener, ~Copyable {}

extension PlainListener where Self: ~Copyable {
    static var isListening: Bool { true }

    mutating func arrival(_ event: WorldEvent) throws(ExecutionError) {}

    mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool { true }

    mutating func deviceWrite(_ write: DeviceWrite) throws(ExecutionError) -> Bool { true }
}

/// A CPU of which no instruction is completed; without a local APIC, one that cannot be
/// interrupted in mid-flight, whose memory nothing changes and that stands nowhere to go back to.
protocol PlainCPU: Processor, ~Copyable {}

extension PlainCPU where Self: ~Copyable {
    mutating func hasEventUnderWay() throws(KVMError) -> Bool { false }
    func changedPages() -> [MemoryDigest.Page] { [] }
    mutating func markPages() {}
    mutating func keepPlace(_ memory: borrowing GuestMemory) throws(ExecutionError) {}
    mutating func returnToPlace(
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool { false }

    mutating func extendedState() throws(KVMError) -> ExtendedState {
        ExtendedState(mxcsr: 0x1F80, mxcsrMask: 0xFFFF, x87Status: 0, xcr0: 1)
    }

    mutating func apply(_ changes: [Change]) throws(KVMError) {}

    mutating func run(other: inout Exit) throws(KVMError) -> RunStep {
        switch try run() {
        case .interrupted: return .interrupted
        case .exit(let exit): return RunStep(exit, other: &other)
        }
    }

    var apicBase: UInt64 { 0 }
    mutating func takesNonMaskableInterrupt() throws(KVMError) -> Bool { true }
    mutating func nonMaskableInterrupt() throws(KVMError) {}
    mutating func refreshSystemRegisters() throws(KVMError) {}
    mutating func armKick(nanoseconds: UInt64) throws(KVMError) {}
    mutating func progress() throws(KVMError) -> UInt64? { nil }
    mutating func isQuiet() throws(KVMError) -> Bool { false }
    mutating func setStandingBreakpoint(_ address: GuestVirtualAddress?) throws(KVMError) {}
    mutating func memoryDigest(
        _ memory: borrowing GuestMemory
    ) throws(KVMError) -> Digest128 { memory.digest().digest }
    mutating func stateDigest() throws(KVMError) -> Digest128 { .zero }
    func privilegedState(debugStatus: UInt64?) -> PrivilegedState { PrivilegedState(bytes: []) }
    mutating func stateDigest(
        _ privileged: PrivilegedState, interruptTableLimit: UInt16?
    ) -> Digest128 { .zero }
    mutating func setGuestDebug(_ debug: GuestDebug) throws(KVMError) {}
    mutating func restoreFlags(_ flags: UInt64) throws(KVMError) {}
    mutating func watchCode(_ addresses: [GuestVirtualAddress]) throws(KVMError) {}
    func isWatched(_ address: GuestVirtualAddress) -> Bool { false }
    mutating func setInterruptTableLimit(_ limit: UInt16) throws(KVMError) -> UInt16 { 0 }
    mutating func debugStatus() throws(KVMError) -> UInt64 { 0 }
    mutating func setDebugStatus(_ value: UInt64) throws(KVMError) {}
    mutating func discountProgress(_ count: UInt64) throws(KVMError) {}
    mutating func raisedException() throws(KVMError) -> UInt8 { 0 }
    mutating func syscallTargets() throws(KVMError) -> SyscallTargets? { nil }
    mutating func moveRIP(to address: UInt64) throws(KVMError) {}
    mutating func wholeState() throws(KVMError) -> [Change] { [] }
    mutating func assume(_ changes: [Change], progress: UInt64?) throws(KVMError) {}
}
