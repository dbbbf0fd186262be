internal import Devices
internal import Guest
public import Machine

/// Bytes that a device put in RAM without the CPU.
public struct DeviceWrite: Equatable, Sendable {
    /// Where.
    public var address: GuestPhysicalAddress
    /// What: 64 KiB at most.
    public var bytes: [UInt8]

    /// Makes a write.
    public init(address: GuestPhysicalAddress, bytes: [UInt8]) {
        self.address = address
        self.bytes = bytes
    }
}

/// RAM as devices reach it; keeps what they wrote, in its order.
@safe
struct DeviceMemory: DirectMemory, ~Copyable {
    typealias Failure = ExecutionError

    private let ram: [GuestMemory.Region]
    private(set) var writes: [DeviceWrite] = []

    // SAFETY (whole type): the caller of the initialiser holds the memory for as long as self is
    // used, and the guest does not run meanwhile.
    init(_ memory: borrowing GuestMemory) { ram = memory.regions.filter { !$0.isReadOnly } }

    private func host(
        _ address: GuestPhysicalAddress, count: Int
    ) -> UnsafeMutableRawPointer? {
        for region in ram where address.rawValue >= region.base.rawValue {
            let offset = address.rawValue - region.base.rawValue
            guard offset < region.lengthInBytes, UInt64(count) <= region.lengthInBytes - offset
            else { continue }
            return unsafe region.host + Int(offset)
        }
        return nil
    }

    mutating func read(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) -> Bool {
        guard let host = unsafe host(address, count: bytes.count) else { return false }
        unsafe bytes.copyMemory(from: UnsafeRawBufferPointer(start: host, count: bytes.count))
        return true
    }

    mutating func write(
        _ address: GuestPhysicalAddress, _ bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) -> Bool {
        guard let host = unsafe host(address, count: bytes.count) else { return false }
        unsafe UnsafeMutableRawBufferPointer(start: host, count: bytes.count)
            .copyMemory(from: bytes)
        unsafe writes.append(DeviceWrite(address: address, bytes: Array(bytes)))
        return true
    }
}
