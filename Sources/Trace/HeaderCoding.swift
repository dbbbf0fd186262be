import Machine

// Metadata blocks to and from `TraceHeader`: one block a topic, items inside (FORMAT.md, "Metadata").

private enum Tag {
    static let machineRAM: UInt32 = 1
    static let machineVCPUs: UInt32 = 2
    static let machineDevice: UInt32 = 3
    static let machineProperty: UInt32 = 4

    static let cpuidRequested: UInt32 = 1
    static let cpuidObserved: UInt32 = 2

    static let hostFact: UInt32 = 1

    static let imageIndex: UInt32 = 1
    static let imageName: UInt32 = 2
    static let imageKind: UInt32 = 3
    static let imageByteCount: UInt32 = 4
    static let imageDigest: UInt32 = 5
    static let imageProperty: UInt32 = 6

    static let commandLine: UInt32 = 1

    static let site: UInt32 = 1

    static let creation: UInt32 = 1
    static let commandArgument: UInt32 = 2
    static let hostName: UInt32 = 3
    static let observedProperty: UInt32 = 4

    static let parentName: UInt32 = 1
    static let parentPlace: UInt32 = 2
}

/// The payload of one metadata block.
struct MetadataPayload {
    var type: BlockType
    var bytes: [UInt8]
}

enum HeaderCoding {
    static let maximumImages = 64

    /// The metadata blocks of a header in file order, image bytes left out.
    static func payloads(of header: TraceHeader) -> [MetadataPayload] {
        var result = [machine(header.machine), cpuid(header), hostFacts(header.hostFacts)]
        for (index, image) in header.images.enumerated() {
            result.append(imageHead(image, index))
        }
        if !header.rewrittenSites.isEmpty { result.append(sites(header.rewrittenSites)) }
        result.append(commandLine(header.commandLine))
        if let observed = header.observed { result.append(self.observed(observed)) }
        if let parent = header.parent { result.append(self.parent(parent)) }
        return result
    }

    /// What tells this run's set-up from another's: a hash over the deterministic metadata.
    static func identity(of payloads: [MetadataPayload]) -> UInt64 {
        var all = ByteBuffer()
        for payload in payloads where payload.type != .observed {
            all.append(UInt32(payload.type.rawValue))
            all.append(UInt32(truncatingIfNeeded: payload.bytes.count))
            all.append(payload.bytes)
        }
        return unsafe hash64(all.bytes)
    }

    private static func machine(_ machine: MachineDescription) -> MetadataPayload {
        var writer = TLVWriter()
        writer.item(Tag.machineRAM, machine.ramBytes)
        writer.item(Tag.machineVCPUs, UInt64(machine.vCPUCount))
        for device in machine.devices {
            writer.item(Tag.machineDevice) {
                $0.append(counted: device.name)
                $0.append(counted: device.base)
                $0.append(counted: device.interrupt)
                $0.append(counted: device.configuration)
            }
        }
        for property in machine.properties { writer.item(Tag.machineProperty, property) }
        return MetadataPayload(type: .machine, bytes: writer.buffer.array())
    }

    private static func cpuid(_ header: TraceHeader) -> MetadataPayload {
        var writer = TLVWriter()
        func table(_ tag: UInt32, _ entries: [CPUIDEntry]) {
            writer.item(tag) {
                for entry in entries {
                    $0.append(entry.function)
                    $0.append(entry.index)
                    $0.append(UInt32(entry.isIndexSignificant ? 1 : 0))
                    $0.append(entry.eax)
                    $0.append(entry.ebx)
                    $0.append(entry.ecx)
                    $0.append(entry.edx)
                }
            }
        }
        table(Tag.cpuidRequested, header.requestedCPUID)
        table(Tag.cpuidObserved, header.observedCPUID)
        return MetadataPayload(type: .cpuid, bytes: writer.buffer.array())
    }

    private static func hostFacts(_ facts: HostFacts) -> MetadataPayload {
        var writer = TLVWriter()
        for fact in facts.facts {
            writer.item(Tag.hostFact) {
                $0.append(fact.weight.rawValue)
                $0.append(counted: fact.name)
                $0.append(counted: fact.value)
            }
        }
        return MetadataPayload(type: .hostFacts, bytes: writer.buffer.array())
    }

    private static func imageHead(_ image: ImageRecord, _ index: Int) -> MetadataPayload {
        var writer = TLVWriter()
        writer.item(Tag.imageIndex, UInt64(index))
        writer.item(Tag.imageName, image.name)
        writer.item(Tag.imageKind, image.kind)
        writer.item(Tag.imageByteCount, image.byteCount)
        writer.item(Tag.imageDigest) {
            $0.append(image.digest.low)
            $0.append(image.digest.high)
        }
        for property in image.properties { writer.item(Tag.imageProperty, property) }
        return MetadataPayload(type: .image, bytes: writer.buffer.array())
    }

    private static func sites(_ sites: [RewrittenSite]) -> MetadataPayload {
        var writer = TLVWriter()
        for site in sites {
            writer.item(Tag.site) {
                $0.append(site.address.rawValue)
                $0.append(site.linearAddress?.rawValue ?? 0)
                $0.append(UInt32(site.linearAddress == nil ? 0 : 1))
                $0.append(UInt32(truncatingIfNeeded: site.original.count))
                $0.append(site.original)
                $0.append(UInt32(truncatingIfNeeded: site.replacement.count))
                $0.append(site.replacement)
            }
        }
        return MetadataPayload(type: .rewrittenSites, bytes: writer.buffer.array())
    }

    private static func commandLine(_ line: String) -> MetadataPayload {
        var writer = TLVWriter()
        writer.item(Tag.commandLine, line)
        return MetadataPayload(type: .commandLine, bytes: writer.buffer.array())
    }

    private static func observed(_ facts: ObservedFacts) -> MetadataPayload {
        var writer = TLVWriter()
        writer.item(Tag.creation, facts.creationNanoseconds)
        for argument in facts.command { writer.item(Tag.commandArgument, argument) }
        writer.item(Tag.hostName, facts.hostName)
        for property in facts.properties { writer.item(Tag.observedProperty, property) }
        return MetadataPayload(type: .observed, bytes: writer.buffer.array())
    }

    private static func parent(_ parent: ParentTrace) -> MetadataPayload {
        var writer = TLVWriter()
        writer.item(Tag.parentName, parent.name)
        writer.item(Tag.parentPlace) {
            $0.append(parent.identity)
            $0.append(parent.exit)
            $0.append(parent.digest.low)
            $0.append(parent.digest.high)
        }
        return MetadataPayload(type: .parent, bytes: writer.buffer.array())
    }

    /// Takes one metadata block into a header.
    static func read(
        _ type: BlockType, _ payload: UnsafeRawBufferPointer, into header: inout TraceHeader
    ) throws(Malformed) {
        switch type {
        case .machine: header.machine = try unsafe readMachine(payload)
        case .cpuid:
            try unsafe forEachItem(in: payload, "CPUID") { tag, value throws(Malformed) in
                if tag == Tag.cpuidRequested { header.requestedCPUID = try table(&value) }
                if tag == Tag.cpuidObserved { header.observedCPUID = try table(&value) }
            }
        case .hostFacts:
            try unsafe forEachItem(in: payload, "host facts") { tag, value throws(Malformed) in
                guard tag == Tag.hostFact else { return }
                let weight = HostFact.Weight(rawValue: try value.integer()) ?? .description
                let name = try value.countedString()
                header.hostFacts.facts.append(.init(name, try value.countedString(), weight))
            }
        case .image:
            let (index, image) = try unsafe readImage(payload)
            while header.images.count <= index { header.images.append(.unreadable) }
            header.images[index] = image
        case .rewrittenSites:
            try unsafe forEachItem(in: payload, "rewritten sites") {
                tag, value throws(Malformed) in
                guard tag == Tag.site else { return }
                let address: UInt64 = try value.integer()
                let linear: UInt64 = try value.integer()
                let hasLinear = try value.integer(UInt32.self) != 0
                let original = try value.countedBytes()
                header.rewrittenSites.append(
                    .init(
                        address: .init(address), linearAddress: hasLinear ? .init(linear) : nil,
                        original: original, replacement: try value.countedBytes()))
            }
        case .commandLine:
            try unsafe forEachItem(in: payload, "command line") { tag, value throws(Malformed) in
                if tag == Tag.commandLine {
                    header.commandLine = try value.string(value.remaining)
                }
            }
        case .observed: header.observed = try unsafe readObserved(payload)
        case .parent: header.parent = try unsafe readParent(payload)
        default: return
        }
    }

    private static func readMachine(
        _ payload: UnsafeRawBufferPointer
    ) throws(Malformed) -> MachineDescription {
        var machine = MachineDescription(ramBytes: 0)
        try unsafe forEachItem(in: payload, "machine") { tag, value throws(Malformed) in
            switch tag {
            case Tag.machineRAM: machine.ramBytes = try value.integer()
            case Tag.machineVCPUs:
                let count: UInt64 = try value.integer()
                guard count >= 1, count <= UInt64(Limits.vCPUs) else {
                    throw Malformed("a machine with \(count) vCPUs")
                }
                machine.vCPUCount = Int(count)
            case Tag.machineDevice:
                let name = try value.countedString()
                let base = try value.countedString()
                let interrupt = try value.countedString()
                machine.devices.append(
                    .init(
                        name: name, base: base, interrupt: interrupt,
                        configuration: try value.countedString()))
            case Tag.machineProperty: machine.properties.append(try value.property())
            default: return
            }
        }
        return machine
    }

    private static func readImage(
        _ payload: UnsafeRawBufferPointer
    ) throws(Malformed) -> (Int, ImageRecord) {
        var image = ImageRecord(
            name: "", kind: "", byteCount: 0, digest: .zero, properties: [])
        var index: UInt64 = .max
        try unsafe forEachItem(in: payload, "image") { tag, value throws(Malformed) in
            switch tag {
            case Tag.imageIndex: index = try value.integer()
            case Tag.imageName: image.name = try value.string(value.remaining)
            case Tag.imageKind: image.kind = try value.string(value.remaining)
            case Tag.imageByteCount: image.byteCount = try value.integer()
            case Tag.imageDigest: image.digest = try value.digest()
            case Tag.imageProperty: image.properties.append(try value.property())
            default: return
            }
        }
        guard index < UInt64(maximumImages) else { throw Malformed("an image number \(index)") }
        guard image.byteCount <= ImageRecord.maximumBytes else {
            throw Malformed("an image of \(image.byteCount) bytes")
        }
        return (Int(index), image)
    }

    private static func table(_ value: inout ByteReader) throws(Malformed) -> [CPUIDEntry] {
        var entries: [CPUIDEntry] = []
        while !value.isAtEnd {
            let function: UInt32 = try value.integer()
            let index: UInt32 = try value.integer()
            let flags: UInt32 = try value.integer()
            let eax: UInt32 = try value.integer()
            let ebx: UInt32 = try value.integer()
            let ecx: UInt32 = try value.integer()
            entries.append(
                .init(
                    function: function, index: index, isIndexSignificant: flags & 1 != 0,
                    eax: eax, ebx: ebx, ecx: ecx, edx: try value.integer()))
        }
        return entries
    }

    private static func readObserved(
        _ payload: UnsafeRawBufferPointer
    ) throws(Malformed) -> ObservedFacts {
        var facts = ObservedFacts(creationNanoseconds: 0, command: [], hostName: "")
        try unsafe forEachItem(in: payload, "observed facts") { tag, value throws(Malformed) in
            switch tag {
            case Tag.creation: facts.creationNanoseconds = try value.integer()
            case Tag.commandArgument: facts.command.append(try value.string(value.remaining))
            case Tag.hostName: facts.hostName = try value.string(value.remaining)
            case Tag.observedProperty: facts.properties.append(try value.property())
            default: return
            }
        }
        return facts
    }

    private static func readParent(
        _ payload: UnsafeRawBufferPointer
    ) throws(Malformed) -> ParentTrace {
        var parent = ParentTrace(name: "", identity: 0, exit: 0, digest: .zero)
        try unsafe forEachItem(in: payload, "parent trace") { tag, value throws(Malformed) in
            switch tag {
            case Tag.parentName: parent.name = try value.string(value.remaining)
            case Tag.parentPlace:
                parent.identity = try value.integer()
                parent.exit = try value.integer()
                parent.digest = try value.digest()
            default: return
            }
        }
        return parent
    }
}
