internal import Machine

extension DeviceSet {
    /// The devices of a machine, with the ports that the tables of ``DeviceSet`` give them.
    static func descriptions(of configuration: Configuration) -> [DeviceDescription] {
        let memory = configuration.serialMemoryBase.map { "memory=0x" + String($0, radix: 16) }
        let common =
            [
                DeviceDescription(
                    name: "16550a", base: claims(of: .serial), irq: serialIRQ,
                    options: memory ?? "")
            ]
            + ports.filter { $0.slot == .debugConsole }.map {
                DeviceDescription(
                    name: "debug-console",
                    base: "port " + DeviceDescription.range(UInt64($0.first), count: 1))
            } + [DeviceDescription(name: "isa-debug-exit", base: claims(of: .debugExit))]
        let reset = DeviceDescription(name: "reset-control", base: claims(of: .resetControl))
        guard configuration.machine.isPC else {
            return common + [
                DeviceDescription(name: "8042-reset", base: claims(of: .keyboardController)), reset,
            ]
        }
        let list = common + devices(of: configuration.pc) + [reset]
        guard configuration.machine.hasAPIC else { return list }
        return list + [
            DeviceDescription(name: "82093aa", base: page(PCLayout.ioAPIC)),
            DeviceDescription(name: DeviceDescription.localAPIC, base: page(PCLayout.localAPIC)),
        ]
    }

    /// What a PC has and a bare machine has not.
    private static func devices(of pc: PCConfiguration) -> [DeviceDescription] {
        // Firmware may move them; the trace shows it, as writes to PCI configuration.
        let power = DeviceDescription.range(
            UInt64(PCLayout.powerPort), count: UInt64(PowerManagement.portCount))
        return [
            DeviceDescription(
                name: "8259a-pair", base: claims(of: .interruptController, .interruptLevels)),
            DeviceDescription(name: "8254", base: claims(of: .timer), irq: UInt8(PC.Line.timer)),
            DeviceDescription(
                name: "8042", base: claims(of: .keyboardData, .keyboardCommand),
                irq: UInt8(PC.Line.keyboard),
                options: pc.keys.isEmpty ? "" : "keys=\(pc.keys.count)"),
            DeviceDescription(
                name: "mc146818", base: claims(of: .clock), irq: UInt8(PC.Line.clock),
                options: "start=\(pc.startDate)"),
            DeviceDescription(
                name: "system-control", base: claims(of: .systemControlA, .systemControlB)),
            DeviceDescription(
                name: "fw-cfg",
                base: claims(of: .firmwareSelector, .firmwareData, .firmwareAddress),
                options: pc.offersFirmwareDMA ? "dma=on" : ""),
            DeviceDescription(
                name: "piix4-pm", base: claims(of: .powerCommand) + " " + power,
                irq: UInt8(PC.Line.powerManagement),
                options: "timer=\(pc.has32BitTimer ? 32 : 24)"),
            DeviceDescription(name: "pci-config", base: claims(of: .pciAddress, .pciData)),
            DeviceDescription(name: "dma-and-post-latches", base: claims(of: .latch)),
        ]
    }

    private static func page(_ address: UInt64) -> String {
        "memory " + DeviceDescription.range(address, count: 0x1000)
    }
}
