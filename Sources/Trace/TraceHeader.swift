public import Machine

/// A key and a value, both opaque to the trace; kept in the order given.
public struct Property: Equatable, Sendable {
    /// What it is: a stable dotted name.
    public var key: String
    /// Its value as text.
    public var value: String

    /// Makes a property.
    public init(_ key: String, _ value: String) {
        self.key = key
        self.value = value
    }
}

/// What is known of a run before its first event.
public struct TraceHeader: Equatable, Sendable {
    /// The machine the guest ran on.
    public var machine: MachineDescription
    /// The CPUID table that was asked for.
    public var requestedCPUID: [CPUIDEntry]
    /// The CPUID table that the guest sees.
    public var observedCPUID: [CPUIDEntry]
    /// The host and how its KVM behaves.
    public var hostFacts: HostFacts
    /// What was loaded; at most 64 images.
    public var images: [ImageRecord]
    /// The guest's command line.
    public var commandLine: String
    /// Instructions that were rewritten to exits.
    public var rewrittenSites: [RewrittenSite]
    /// What differs between two recordings of one guest; nil where it was left out.
    public var observed: ObservedFacts?
    /// The trace that this one went on from, if any.
    public var parent: ParentTrace?

    /// Makes a header.
    public init(
        machine: MachineDescription, requestedCPUID: [CPUIDEntry] = [],
        observedCPUID: [CPUIDEntry] = [], hostFacts: HostFacts = HostFacts(),
        images: [ImageRecord] = [], commandLine: String = "",
        rewrittenSites: [RewrittenSite] = [], observed: ObservedFacts? = nil,
        parent: ParentTrace? = nil
    ) {
        self.machine = machine
        self.requestedCPUID = requestedCPUID
        self.observedCPUID = observedCPUID
        self.hostFacts = hostFacts
        self.images = images
        self.commandLine = commandLine
        self.rewrittenSites = rewrittenSites
        self.observed = observed
        self.parent = parent
    }
}

/// The machine a guest ran on.
public struct MachineDescription: Equatable, Sendable {
    /// RAM, in bytes.
    public var ramBytes: UInt64
    /// The number of vCPUs, 1 to 256.
    public var vCPUCount: Int
    /// The devices, in the order they were put on the bus.
    public var devices: [DeviceDescription]
    /// How the machine was set up: clock, TSC, interrupts (keys belong to Execution).
    public var properties: [Property]

    /// Makes a description.
    public init(
        ramBytes: UInt64, vCPUCount: Int = 1, devices: [DeviceDescription] = [],
        properties: [Property] = []
    ) {
        self.ramBytes = ramBytes
        self.vCPUCount = vCPUCount
        self.devices = devices
        self.properties = properties
    }
}

/// One device of a machine, as people and later versions are told of it.
public struct DeviceDescription: Equatable, Sendable {
    /// Its model: `uart16550`.
    public var name: String
    /// Where it is: `port 0x3f8..0x3ff`, `mmio 0xfed40000..0xfed44fff`.
    public var base: String
    /// Its interrupt line, empty for none.
    public var interrupt: String
    /// Its settings.
    public var configuration: String

    /// Makes a description.
    public init(
        name: String, base: String, interrupt: String = "", configuration: String = ""
    ) {
        self.name = name
        self.base = base
        self.interrupt = interrupt
        self.configuration = configuration
    }
}

/// An instruction that was rewritten to one that exits.
public struct RewrittenSite: Equatable, Sendable {
    /// Where it is in guest-physical memory.
    public var address: GuestPhysicalAddress
    /// Where the guest executes it, when that is known.
    public var linearAddress: GuestVirtualAddress?
    /// The bytes that were there; at most 16.
    public var original: [UInt8]
    /// The bytes that are there now; as many.
    public var replacement: [UInt8]

    /// Makes a site.
    public init(
        address: GuestPhysicalAddress, linearAddress: GuestVirtualAddress? = nil,
        original: [UInt8], replacement: [UInt8]
    ) {
        self.address = address
        self.linearAddress = linearAddress
        self.original = original
        self.replacement = replacement
    }
}

/// What differs between two recordings of one guest: shown, never compared.
public struct ObservedFacts: Equatable, Sendable {
    /// When the recording began, in nanoseconds since 1970 UTC.
    public var creationNanoseconds: UInt64
    /// The command that recorded, by argument.
    public var command: [String]
    /// The host's name.
    public var hostName: String
    /// Anything else.
    public var properties: [Property]

    /// Makes the facts.
    public init(
        creationNanoseconds: UInt64, command: [String], hostName: String,
        properties: [Property] = []
    ) {
        self.creationNanoseconds = creationNanoseconds
        self.command = command
        self.hostName = hostName
        self.properties = properties
    }
}

/// The trace from which a run went on live.
public struct ParentTrace: Equatable, Sendable {
    /// Its file name, for people.
    public var name: String
    /// Its ``TraceReader/identity``.
    public var identity: UInt64
    /// The first exit that is not the parent's.
    public var exit: UInt64
    /// The parent's full digest there.
    public var digest: Digest128

    /// Makes the reference.
    public init(name: String, identity: UInt64, exit: UInt64, digest: Digest128) {
        self.name = name
        self.identity = identity
        self.exit = exit
        self.digest = digest
    }
}

/// Something that was loaded into the guest, or that its symbols come from.
public struct ImageRecord: Equatable, Sendable {
    /// Its file name, for people.
    public var name: String
    /// What it is: `flat16`, `elf64`, `multiboot`, `firmware`, `module`, ...
    public var kind: String
    /// Its length in bytes; at most 1 GiB.
    public var byteCount: UInt64
    /// XXH3-128 of its bytes.
    public var digest: Digest128
    /// How it was loaded: entry, segments (keys belong to Guest).
    public var properties: [Property]
    /// Its bytes where they are not zero, by ascending offset. Empty in a header that was read:
    /// ``TraceReader/imageBytes(_:)`` reads them.
    public var segments: [ImageSegment]

    /// An image is at most this long, in bytes.
    public static let maximumBytes: UInt64 = 1 << 30

    /// Makes a record of an image's bytes: computes the digest and leaves out runs of zeros.
    public init(name: String, kind: String, bytes: [UInt8], properties: [Property] = []) {
        self.name = name
        self.kind = kind
        self.byteCount = UInt64(bytes.count)
        self.digest = Digest128(of: bytes)
        self.properties = properties
        self.segments = ImageSegment.segments(of: bytes)
    }

    /// Stands where an image's record is damaged.
    static let unreadable = ImageRecord(
        name: "", kind: "unreadable", byteCount: 0, digest: .zero, properties: [])

    /// Makes a record without bytes, as a reader does.
    init(
        name: String, kind: String, byteCount: UInt64, digest: Digest128,
        properties: [Property]
    ) {
        self.name = name
        self.kind = kind
        self.byteCount = byteCount
        self.digest = digest
        self.properties = properties
        self.segments = []
    }
}

/// A run of bytes of an image.
public struct ImageSegment: Equatable, Sendable {
    /// Where it begins in the image, in bytes.
    public var offset: UInt64
    /// Its bytes.
    public var bytes: [UInt8]

    /// Makes a segment.
    public init(offset: UInt64, bytes: [UInt8]) {
        self.offset = offset
        self.bytes = bytes
    }

    /// The pages of `bytes` that are not all zero, neighbours joined.
    static func segments(of bytes: [UInt8]) -> [ImageSegment] {
        let page = 4096
        var segments: [ImageSegment] = []
        var begin: Int?
        var at = 0
        while at < bytes.count {
            let end = min(at + page, bytes.count)
            let isZero = bytes[at..<end].allSatisfy { $0 == 0 }
            if let first = begin, isZero {
                segments.append(.init(offset: UInt64(first), bytes: Array(bytes[first..<at])))
                begin = nil
            } else if begin == nil && !isZero {
                begin = at
            }
            at = end
        }
        if let first = begin {
            segments.append(.init(offset: UInt64(first), bytes: Array(bytes[first...])))
        }
        return segments
    }
}
