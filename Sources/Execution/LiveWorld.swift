public import Devices
internal import KVM
public import Machine
internal import Trace

/// The live world: device models on their buses.
public struct LiveWorld: World, ~Copyable {
    /// The devices.
    public var devices: DeviceSet
    /// What a device asked for in the exit that is being handled.
    private var outcome = DeviceOutcome.none
    /// The host's time at the first access, which is the devices' time 0.
    private var start: UInt64?

    /// Makes a world of devices.
    public init(devices: consuming DeviceSet) { self.devices = devices }

    /// Moves the devices on to the host's time.
    @inline(__always)
    private mutating func advance() {
        guard devices.machine == .pc else { return }
        let now = HostThread.monotonicNanoseconds()
        let origin = start ?? now
        start = origin
        devices.advance(to: now &- origin)
    }

    /// A port write reaches its device.
    public mutating func portOut(
        _ port: UInt16, size: Int, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, alive through the call.
        advance()
        outcome = unsafe devices.portOut(port, size: size, bytes)
    }

    /// A port read is answered by its device.
    public mutating func portIn(
        _ port: UInt16, size: Int, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, alive through the call.
        advance()
        unsafe devices.portIn(port, size: size, into: bytes)
    }

    /// A write to device memory reaches its device.
    public mutating func memoryWrite(
        _ address: GuestPhysicalAddress, bytes: UnsafeRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, alive through the call.
        advance()
        outcome = unsafe devices.memoryWrite(address, bytes)
    }

    /// A read of device memory is answered by its device.
    public mutating func memoryRead(
        _ address: GuestPhysicalAddress, into bytes: UnsafeMutableRawBufferPointer
    ) throws(ExecutionError) {
        // SAFETY: the buffer is the caller's, alive through the call.
        advance()
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
        if outcome == .none || outcome == .directMemory {
            guard let natural else { return .go }
            return .end(natural)
        }
        return .end(takeOutcome())
    }

    private mutating func takeOutcome() -> Ending {
        defer { outcome = .none }
        switch outcome {
        case .none, .directMemory, .reset: return Ending(.reset)
        case .debugExit(let status):
            return Ending(.debugExit, guestStatus: Int32(truncatingIfNeeded: status))
        case .powerOff: return Ending(.powerOff)
        }
    }
}
