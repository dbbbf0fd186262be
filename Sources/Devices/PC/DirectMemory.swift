public import Machine

/// The guest's RAM as a device reaches it without the CPU. What a device writes is part of a
/// recording, so the caller performs it.
public protocol DirectMemory: ~Copyable {
    /// What can go wrong beyond an address that is no RAM.
    associatedtype Failure: Error

    /// Fills `bytes` with what is at `address`. False where that is not all RAM.
    mutating func read(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(Failure) -> Bool

    /// Puts `bytes` (64 KiB at most) at `address`. False where that is not all RAM; then nothing
    /// has been written.
    mutating func write(
        _ address: GuestPhysicalAddress, _ bytes: UnsafeRawBufferPointer
    ) throws(Failure) -> Bool
}
