public import Devices
public import Guest

extension PCConfiguration {
    /// The PC of a load: its RAM, and what it hands to firmware; nothing else is set.
    public init(_ plan: LoadPlan) {
        self.init(memoryBelow4GiB: plan.ram.lowLength, memoryAbove4GiB: plan.ram.highLength)
        bootOrder = plan.firmware.bootOrder
        files = plan.firmware.files.map { File(name: $0.name, bytes: $0.file.bytes) }
        guard let kernel = plan.firmware.kernel else { return }
        self.kernel = kernel.bytes
        initrd = plan.initrd?.bytes ?? []
        commandLine = plan.commandLine
    }
}
