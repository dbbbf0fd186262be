public import Machine

/// What the outside made of something the guest sent.
public enum WorldEffect: Equatable, Sendable {
    /// The guest goes on.
    case none
    /// The machine was reset.
    case reset
    /// The guest ended the run by the debug-exit device, with this status.
    case debugExit(status: UInt32)
    /// The machine was switched off.
    case powerOff
}

/// Everything that reaches the CPU and its RAM from outside (DESIGN 1): the cut of a recording.
///
/// There are two: the live world, which is device models, and the taped world, which is what a
/// trace says the live world answered. Buffers are the run page's own; a world fills or reads
/// them in place.
public protocol World: ~Copyable {
    /// The guest wrote to a port: `bytes` holds `bytes.count / size` accesses of `size` bytes.
    mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> WorldEffect

    /// The guest reads a port: fills `bytes`, which holds `bytes.count / size` accesses.
    mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError)

    /// The guest wrote 1–8 bytes to an address that no RAM covers.
    mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> WorldEffect

    /// The guest reads 1–8 bytes from an address that no RAM covers.
    mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError)

    /// The guest reads an MSR that the filter gives to user space; nil: the guest gets #GP.
    mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64?

    /// The guest writes an MSR that the filter gives to user space; false: the guest gets #GP.
    mutating func writeMSR(_ index: UInt32, _ value: UInt64) throws(ExecutionError) -> Bool
}
