internal import Machine
internal import Trace

/// Which ports and addresses the devices of a recorded machine answer at.
struct ClaimedAddresses {
    /// One bit a port.
    private var ports = [UInt64](repeating: 0, count: 1024)
    private var memory: [ClosedRange<UInt64>] = []

    init(_ machine: MachineDescription) {
        for device in machine.devices {
            if let base = ConsoleDevice.memoryBase(device.configuration) {
                memory.append(base...(base > .max - 7 ? .max : base + 7))
            }
            guard let claim = DeviceAddresses(device.base) else { continue }
            guard !claim.isMemory else {
                memory += claim.ranges
                continue
            }
            for range in claim.ranges { for port in range { add(port) } }
            // A trace may give a serial port's first register alone.
            if ConsoleDevice.isUART(device), let first = claim.ranges.first?.lowerBound {
                for port in first...min(first + 7, 0xFFFF) { add(port) }
            }
        }
    }

    private mutating func add(_ port: UInt64) {
        ports[Int(port >> 6 & 1023)] |= 1 << (port & 63)
    }

    @inline(__always)
    func claims(port: UInt16) -> Bool {
        ports[Int(port >> 6)] & 1 << UInt64(port & 63) != 0
    }

    @inline(__always)
    func claims(address: UInt64) -> Bool { memory.contains { $0.contains(address) } }
}
