/// What a guest's access asks of the machine, beyond the answer it gets.
public enum DeviceOutcome: Equatable, Sendable {
    /// Nothing: go on.
    case none
    /// The guest reset the machine.
    case reset
    /// The guest ended the run by isa-debug-exit, with this status: `value << 1 | 1`, as QEMU's
    /// device has it, so that no value means success to a shell.
    case debugExit(status: UInt32)
    /// The guest switched the machine off.
    case powerOff
    /// A device wants to reach RAM: the caller calls ``DeviceSet/transfer(with:)``, before it goes
    /// on. Comes only where ``PCConfiguration/offersFirmwareDMA`` is set.
    case directMemory
}
