internal import Machine
internal import Trace

/// Which ports and addresses the devices of a recorded machine answer at.
struct ClaimedAddresses {
    /// One bit a port.
    private var ports = [UInt64](repeating: 0, count: 1024)
    private var memory: [ClosedRange<UInt64>] = []

    /// How many ports a model takes where its description gives the first one alone.
    private static let portCounts: [(name: String, count: UInt16)] = [
        ("16550", 8), ("uart", 8), ("serial", 8),
    ]

    init(_ machine: MachineDescription) {
        for device in machine.devices {
            if let base = ConsoleDevice.memoryBase(device.configuration) {
                memory.append(base...(base > .max - 7 ? .max : base + 7))
            }
            if let range = PortRange(device.base) {
                let name = device.name.lowercased()
                let count =
                    range.first < range.last
                    ? 1 : Self.portCounts.first { name.contains($0.name) }?.count ?? 1
                let last = max(UInt32(range.last), UInt32(range.first) + UInt32(count) - 1)
                for port in UInt32(range.first)...min(last, 0xFFFF) {
                    ports[Int(port >> 6)] |= 1 << UInt64(port & 63)
                }
            } else if let range = Self.memoryRange(device.base) {
                memory.append(range)
            }
        }
    }

    /// `mmio 0xfed40000..0xfed44fff`.
    private static func memoryRange(_ text: String) -> ClosedRange<UInt64>? {
        guard text.hasPrefix("mmio") else { return nil }
        let numbers = text.dropFirst(4).split(whereSeparator: { $0 == " " || $0 == "." })
            .compactMap { word in
                word.hasPrefix("0x") ? UInt64(word.dropFirst(2), radix: 16) : UInt64(word)
            }
        guard let first = numbers.first else { return nil }
        return first...max(first, numbers.count > 1 ? numbers[1] : first | 0xFFF)
    }

    @inline(__always)
    func claims(port: UInt16) -> Bool {
        ports[Int(port >> 6)] & 1 << UInt64(port & 63) != 0
    }

    @inline(__always)
    func claims(address: UInt64) -> Bool { memory.contains { $0.contains(address) } }
}
