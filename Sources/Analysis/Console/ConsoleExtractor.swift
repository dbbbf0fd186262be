public import Trace

/// Where a console's output leaves the guest.
public enum ConsoleDevice: Equatable, Sendable {
    /// A 16550-compatible UART whose eight registers begin at this port.
    case uart(UInt16)
    /// A port whose every byte is shown: 0xE9, 0x402.
    case debugPort(UInt16)

    /// The consoles that a machine's devices make up, in their order.
    ///
    /// A device counts by its model's name (`uart…`, `16550…`, `debug-console`) and the first port in
    /// its base (`port 0x3f8..0x3ff`).
    public static func consoles(of machine: MachineDescription) -> [ConsoleDevice] {
        machine.devices.compactMap { device in
            guard let port = PortRange(device.base)?.first else { return nil }
            let name = device.name.lowercased()
            if ["uart", "16550", "serial"].contains(where: { name.contains($0) }) {
                return .uart(port)
            }
            let isDebugConsole = ["debugcon", "debug-con"].contains { name.contains($0) }
            return isDebugConsole ? .debugPort(port) : nil
        }
    }
}

/// Rebuilds what the guest printed from what it sent to its console devices.
///
/// Works on OUTs alone, so it needs neither devices nor a replay; a byte that goes to a UART's
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
    /// What was printed and not yet taken, all consoles in order of time.
    public private(set) var output: [UInt8] = []

    /// Listens to some consoles.
    public init(_ devices: [ConsoleDevice]) {
        consoles = devices.map { Console(device: $0) }
        claimed = []
        for device in devices {
            switch device {
            case .uart(let base):
                for register in 0..<5 { claimed.insert(base &+ UInt16(register)) }
            case .debugPort(let port): claimed.insert(port)
            }
        }
    }

    /// Listens to the consoles of a recorded machine.
    public init(machine: MachineDescription) { self.init(ConsoleDevice.consoles(of: machine)) }

    /// Takes in one exit; anything but an OUT is passed over.
    @inline(__always)
    public mutating func add(_ frame: borrowing ExitFrame) {
        guard case .io(true, let size, let port, _, _) = frame.detail, size > 0 else {
            return
        }
        if size == 1, !claimed.contains(port) { return }
        for index in 0..<frame.sent.count {
            write(frame.sent[index], to: port &+ UInt16(index % Int(size)))
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
            case .uart(let base):
                switch port &- base {
                case 0:
                    if !consoles[index].divisorLatch, !consoles[index].loopback {
                        output.append(byte)
                    }
                case 3: consoles[index].divisorLatch = byte & 0x80 != 0
                case 4: consoles[index].loopback = byte & 0x10 != 0
                default: break
                }
            }
        }
    }
}

/// Ports as a device's description gives them: `port 0x3f8..0x3ff`, `0x402`.
struct PortRange: Equatable {
    var first: UInt16
    var last: UInt16

    init?(_ text: String) {
        guard !text.contains("mmio") else { return nil }
        var numbers: [UInt16] = []
        let separators: Set<Character> = [" ", ",", ".", "-", "–", "="]
        for word in text.split(whereSeparator: { separators.contains($0) }) {
            let isHexadecimal = word.hasPrefix("0x")
            let digits = isHexadecimal ? word.dropFirst(2) : word
            if let number = UInt16(digits, radix: isHexadecimal ? 16 : 10) {
                numbers.append(number)
            }
        }
        guard let first = numbers.first else { return nil }
        self.first = first
        last = max(first, numbers.count > 1 ? numbers[1] : first)
    }
}
