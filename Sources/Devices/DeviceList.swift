extension DeviceSet {
    /// The devices of a machine, in the order of their ports.
    static func descriptions(of configuration: Configuration) -> [DeviceDescription] {
        let memory = configuration.serialMemoryBase.map { "memory=0x" + String($0, radix: 16) }
        let common = [
            DeviceDescription(
                name: "16550a", base: "port 0x3f8", irq: serialIRQ, options: memory ?? ""),
            DeviceDescription(name: "debug-console", base: "port 0xe9"),
            DeviceDescription(name: "debug-console", base: "port 0x402"),
            DeviceDescription(name: "isa-debug-exit", base: "port 0xf4"),
        ]
        switch configuration.machine {
        case .bare:
            return common + [
                DeviceDescription(name: "8042-reset", base: "port 0x64"),
                DeviceDescription(name: "reset-control", base: "port 0xcf9"),
            ]
        case .pc, .pcAPIC:
            let pc = configuration.pc
            let list =
                common + [
                    DeviceDescription(name: "8259a-pair", base: "port 0x20"),
                    DeviceDescription(name: "8254", base: "port 0x40", irq: UInt8(PC.Line.timer)),
                    DeviceDescription(
                        name: "8042", base: "port 0x60", irq: UInt8(PC.Line.keyboard),
                        options: pc.keys.isEmpty ? "" : "keys=\(pc.keys.count)"),
                    DeviceDescription(
                        name: "mc146818", base: "port 0x70", irq: UInt8(PC.Line.clock),
                        options: "start=\(pc.startDate)"),
                    DeviceDescription(name: "system-control", base: "port 0x92"),
                    DeviceDescription(
                        name: "fw-cfg", base: "port 0x510",
                        options: pc.offersFirmwareDMA ? "dma=on" : ""),
                    DeviceDescription(
                        name: "piix4-pm", base: "port 0x600", irq: UInt8(PC.Line.powerManagement),
                        options: "timer=\(pc.has32BitTimer ? 32 : 24)"),
                    DeviceDescription(name: "pci-config", base: "port 0xcf8"),
                    DeviceDescription(name: "reset-control", base: "port 0xcf9"),
                ]
            guard configuration.machine.hasAPIC else { return list }
            return list + [
                DeviceDescription(name: "82093aa", base: "memory 0xfec00000"),
                DeviceDescription(name: DeviceDescription.localAPIC, base: "memory 0xfee00000"),
            ]
        }
    }
}
