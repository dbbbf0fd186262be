public import Devices
public import Machine
internal import Trace

/// The live world: device models on their buses.
public struct LiveWorld: World, ~Copyable {
    /// The devices.
    public var devices: DeviceSet
    /// What a device asked for in the exit that is being handled.
    private var outcome = DeviceOutcome.none

    /// Makes a world of devices.
    public init(devices: consuming DeviceSet) { self.devices = devices }

    /// A port write reaches its device.
    public mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, alive through the call.
        outcome = unsafe devices.portOut(port, size: size, bytes)
    }

    /// A port read is answered by its device.
    public mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, alive through the call.
        unsafe devices.portIn(port, size: size, into: bytes)
    }

    /// A write to device memory reaches its device.
    public mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, alive through the call.
        outcome = unsafe devices.memoryWrite(address, bytes)
    }

    /// A read of device memory is answered by its device.
    public mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, alive through the call.
        unsafe devices.memoryRead(address, into: bytes)
    }

    /// No MSR is given to user space yet: the guest gets #GP, as from an MSR that does not exist.
    public mutating func readMSR(_ index: UInt32) throws(ExecutionError) -> UInt64? { nil }

    /// No MSR is given to user space yet: the guest gets #GP, as from an MSR that does not exist.
    public mutating func writeMSR(
        _ index: UInt32, _ value: UInt64
    ) throws(ExecutionError) -> Bool { false }

    /// Ends the run where a device or the exit itself says so.
    @inline(__always)
    public mutating func verdict(natural: Ending?) throws(ExecutionError) -> Verdict {
        if outcome == .none {
            guard let natural else { return .go }
            return .end(natural)
        }
        return .end(takeOutcome())
    }

    private mutating func takeOutcome() -> Ending {
        defer { outcome = .none }
        switch outcome {
        case .none, .reset: return Ending(.reset)
        case .debugExit(let status):
            return Ending(.debugExit, guestStatus: Int32(truncatingIfNeeded: status))
        case .powerOff: return Ending(.powerOff)
        }
    }
}
