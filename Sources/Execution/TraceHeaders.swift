internal import Devices
internal import Guest
internal import KVM
internal import Machine
internal import Trace

extension TraceHeader {
    /// The property `interrupts` of a recording with ``StallPolicy/kick``.
    static let interruptsWhereStalled = "at exits, or in mid-flight where the guest stalls"

    /// What a recording knows before its first event.
    init(
        recording: RecordSession.Recording, cpu: Int, configuration: LiveConfiguration,
        rewriting: Rewriting, msrFilter: [MSRFilterRange], host: HostFacts,
        requestedCPUID: [CPUIDEntry], observedCPUID: [CPUIDEntry],
        devices: borrowing DeviceSet
    ) {
        let plan = configuration.plan
        var observed = recording.observed
        observed?.properties.append(Property(VCPUPlacement.property, "\(cpu)"))
        self.init(
            machine: MachineDescription(
                ramBytes: plan.ram.lengthInBytes,
                devices: devices.descriptions.map {
                    Trace.DeviceDescription(
                        name: $0.name, base: $0.base,
                        interrupt: $0.irq.map { "irq \($0)" } ?? "", configuration: $0.options)
                },
                // What a reader must know to judge a divergence.
                properties: [
                    Property("tsc", configuration.rewritesTimeStamp ? "rewrite" : "native"),
                    Property("clock", configuration.clock.name),
                    Property(
                        "interrupts",
                        configuration.clock == .host
                            ? "at exits, or in mid-flight"
                            : configuration.stall == .kick
                                ? Self.interruptsWhereStalled : "at exits"),
                    Property("completions", configuration.completesInstructions ? "on" : "off"),
                    Property(MSRFilterProperty.key, MSRFilterProperty.text(msrFilter)),
                ] + devices.properties.map { Property($0.key, $0.value) } + rewriting.properties),
            requestedCPUID: requestedCPUID, observedCPUID: observedCPUID, hostFacts: host,
            images: plan.records.map { ImageRecord($0) },
            commandLine: plan.records.first?["command-line"] ?? "",
            rewrittenSites: rewriting.sites,
            observed: recording.hasTiming ? observed : nil)
    }
}

extension ImageRecord {
    /// An image as a load knows it.
    init(_ record: GuestImageRecord) {
        self.init(
            name: record.name, kind: record.kind, bytes: record.bytes,
            properties: record.properties.map { Property($0.key, $0.value) })
    }
}
