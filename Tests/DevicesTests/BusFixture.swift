import Machine

@testable import Devices

/// A device set whose output is kept, with shorter calls.
struct Machine: ~Copyable {
    var devices: DeviceSet

    init(
        input: [UInt8] = [], debugConsole: ConsoleOutput.Target? = nil,
        serialMemoryBase: UInt64? = nil, pc: PCConfiguration? = nil, hasAPIC: Bool = false
    ) throws(DeviceError) {
        devices = try DeviceSet(
            .init(
                serial: .memory, debugConsole: debugConsole, serialMemoryBase: serialMemoryBase,
                machine: pc == nil ? .bare : hasAPIC ? .pcAPIC : .pc, pc: pc ?? PCConfiguration()),
            input: ConsoleInput(bytes: input))
    }

    /// One OUT of `size` bytes.
    @discardableResult
    mutating func out(_ port: UInt16, _ value: UInt32, size: Int = 1) -> DeviceOutcome {
        let bytes = (0..<size).map { UInt8(truncatingIfNeeded: value >> UInt32($0 * 8)) }
        return outs(port, bytes, size: size)
    }

    /// OUTS.
    mutating func outs(_ port: UInt16, _ bytes: [UInt8], size: Int = 1) -> DeviceOutcome {
        unsafe bytes.withUnsafeBytes { unsafe devices.portOut(port, size: size, $0) }
    }

    /// One IN of `size` bytes.
    mutating func `in`(_ port: UInt16, size: Int = 1) -> UInt32 {
        ins(port, count: 1, size: size).reversed().reduce(0) { $0 << 8 | UInt32($1) }
    }

    /// INS.
    mutating func ins(_ port: UInt16, count: Int, size: Int = 1) -> [UInt8] {
        // 0x55: neither what is unclaimed nor zero, so that a byte left alone shows.
        var bytes = [UInt8](repeating: 0x55, count: count * size)
        unsafe bytes.withUnsafeMutableBytes {
            unsafe devices.portIn(port, size: size, into: $0)
        }
        return bytes
    }

    mutating func store(_ address: UInt64, _ bytes: [UInt8]) -> DeviceOutcome {
        unsafe bytes.withUnsafeBytes {
            unsafe devices.memoryWrite(GuestPhysicalAddress(address), $0)
        }
    }

    mutating func load(_ address: UInt64, _ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0x55, count: count)
        unsafe bytes.withUnsafeMutableBytes {
            unsafe devices.memoryRead(GuestPhysicalAddress(address), into: $0)
        }
        return bytes
    }
}
