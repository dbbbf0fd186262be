internal import Machine
public import Trace

/// Where a console's output leaves the guest.
public enum ConsoleDevice: Equatable, Sendable {
    /// A 16550-compatible UART whose eight registers begin at this port, and where `memory` is
    /// given, also at that guest-physical address.
    case uart(UInt16, memory: UInt64? = nil)
    /// A port whose every byte is shown: 0xE9, 0x402.
    case debugPort(UInt16)

    /// The consoles that a machine's devices make up, in their order.
    ///
    /// A device counts by its model's name (`uart…`, `16550…`, `debug-console`) and the first port in
    /// its base (`port 0x3f8..0x3ff`); `memory=0x…` in its settings puts it in memory as well.
    public static func consoles(of machine: MachineDescription) -> [ConsoleDevice] {
        machine.devices.compactMap { device in
            guard let claim = DeviceAddresses(device.base), !claim.isMemory,
                let first = claim.ranges.first?.lowerBound
            else { return nil }
            let port = UInt16(truncatingIfNeeded: first)
            if isUART(device) { return .uart(port, memory: memoryBase(device.configuration)) }
            let name = device.name.lowercased()
            let isDebugConsole = ["debugcon", "debug-con"].contains { name.contains($0) }
            return isDebugConsole ? .debugPort(port) : nil
        }
    }

    /// Whether a device is a serial port, by its model's name.
    static func isUART(_ device: DeviceDescription) -> Bool {
        let name = device.name.lowercased()
        return ["uart", "16550", "serial"].contains { name.contains($0) }
    }
}

extension ConsoleDevice {
    /// The address in `memory=0xfe000000`, nil where there is none.
    static func memoryBase(_ configuration: String) -> UInt64? {
        for word in configuration.split(whereSeparator: { $0 == " " || $0 == "," })
        where word.hasPrefix("memory=0x") {
            return UInt64(word.dropFirst("memory=0x".count), radix: 16)
        }
        return nil
    }
}

/// Rebuilds what the guest printed from what it sent to its console devices.
///
/// Works on writes alone, so it needs neither devices nor a replay; a byte that goes to a UART's
/// divisor latch (DLAB is set) or into its loopback (MCR bit 4) was not printed. Where it begins
/// in the middle of a run, both are taken to be off.
public struct ConsoleExtractor: Sendable {
    private struct Console: Sendable {
        let device: ConsoleDevice
        var divisorLatch = false
        var loopback = false
    }

    private var consoles: [Console]
    /// One bit a port, so that most exits are passed over at once.
    private var claimed: Set<UInt16>
    private var hasMemory = false
    /// What was printed and not yet taken, all consoles in order of time.
    public private(set) var output: [UInt8] = []

    /// Listens to some consoles.
    public init(_ devices: [ConsoleDevice]) {
        consoles = devices.map { Console(device: $0) }
        claimed = []
        for device in devices {
            switch device {
            case .uart(let base, let memory):
                if memory != nil { hasMemory = true }
                for register in 0..<5 { claimed.insert(base &+ UInt16(register)) }
            case .debugPort(let port): claimed.insert(port)
            }
        }
    }

    /// Listens to the consoles of a recorded machine.
    public init(machine: MachineDescription) { self.init(ConsoleDevice.consoles(of: machine)) }

    /// Takes in one exit; anything but a write to a port or to memory is passed over.
    @inline(__always)
    public mutating func add(_ frame: borrowing ExitFrame) {
        switch frame.detail {
        case .io(true, let size, let port, _, _):
            if size == 1, !claimed.contains(port) { return }
            for index in 0..<(size == 0 ? 0 : frame.sent.count) {
                write(frame.sent[index], to: port &+ UInt16(index % Int(size)))
            }
        case .mmio(let address, let length, true, let value):
            if hasMemory {
                add(address: address.rawValue, length: length, value: value)
            }
        default: return
        }
    }

    /// Takes in one MMIO write of `length` bytes, at most 8, little-endian.
    public mutating func add(address: UInt64, length: UInt8, value: UInt64) {
        for index in consoles.indices {
            guard case .uart(_, let base?) = consoles[index].device else { continue }
            for place in 0..<UInt64(min(length, 8)) {
                let register = address &+ place &- base
                guard register < 8 else { continue }
                let byte = UInt8(truncatingIfNeeded: value >> (place * 8))
                write(byte, register: UInt16(register), of: index)
            }
        }
    }

    /// Takes in one OUT: `data` is `count` accesses of `size` bytes each.
    public mutating func add(port: UInt16, size: UInt8, data: Span<UInt8>) {
        guard size > 0 else { return }
        for index in data.indices { write(data[index], to: port &+ UInt16(index % Int(size))) }
    }

    /// Forgets ``output``, and keeps its memory.
    public mutating func removeOutput() { output.removeAll(keepingCapacity: true) }

    /// One byte to one port. A wide access reaches consecutive ports, as on the bus.
    private mutating func write(_ byte: UInt8, to port: UInt16) {
        for index in consoles.indices {
            switch consoles[index].device {
            case .debugPort(let own): if own == port { output.append(byte) }
            case .uart(let base, _): write(byte, register: port &- base, of: index)
            }
        }
    }

    /// One byte to one register of a UART.
    private mutating func write(_ byte: UInt8, register: UInt16, of index: Int) {
        switch register {
        case 0:
            if !consoles[index].divisorLatch, !consoles[index].loopback { output.append(byte) }
        case 3: consoles[index].divisorLatch = byte & 0x80 != 0
        case 4: consoles[index].loopback = byte & 0x10 != 0
        default: break
        }
    }
}
