/// What a block holds; the raw value is the number in its header.
public struct BlockType: RawRepresentable, Hashable, Sendable {
    /// The number in the block's header.
    public var rawValue: UInt8

    /// Makes a type of its number; a type without a name is skipped by readers.
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// RAM, vCPUs, devices.
    public static let machine = BlockType(rawValue: 1)
    /// The CPUID tables.
    public static let cpuid = BlockType(rawValue: 2)
    /// The host and its behaviour.
    public static let hostFacts = BlockType(rawValue: 3)
    /// An image: name, digest, how it was loaded.
    public static let image = BlockType(rawValue: 4)
    /// Bytes of an image.
    public static let imageBytes = BlockType(rawValue: 5)
    /// Instructions rewritten to exits.
    public static let rewrittenSites = BlockType(rawValue: 6)
    /// The guest's command line.
    public static let commandLine = BlockType(rawValue: 7)
    /// Facts that differ from recording to recording.
    public static let observed = BlockType(rawValue: 8)
    /// The trace this run went on from.
    public static let parent = BlockType(rawValue: 9)
    /// Events in columns.
    public static let events = BlockType(rawValue: 16)
    /// Reserved: what happened in the world (clock values, console arrivals, timers).
    public static let world = BlockType(rawValue: 17)
    /// Hashes of the pages of RAM at the end.
    public static let memoryDigest = BlockType(rawValue: 18)
    /// Of a keyframe file: what it goes with.
    public static let keyframeHead = BlockType(rawValue: 24)
    /// Of a keyframe file: pages of RAM.
    public static let keyframePages = BlockType(rawValue: 25)
    /// Of a keyframe file: one place of the run.
    public static let keyframe = BlockType(rawValue: 26)
    /// Where the blocks are.
    public static let index = BlockType(rawValue: 30)
    /// The last block of a complete trace.
    public static let end = BlockType(rawValue: 31)

    private static let names: [(BlockType, String)] = [
        (.machine, "machine"), (.cpuid, "cpuid"), (.hostFacts, "host facts"), (.image, "image"),
        (.imageBytes, "image bytes"), (.rewrittenSites, "rewritten sites"),
        (.commandLine, "command line"), (.observed, "observed facts"), (.parent, "parent"),
        (.events, "events"), (.world, "world"), (.memoryDigest, "memory digest"),
        (.keyframeHead, "keyframe head"), (.keyframePages, "keyframe pages"),
        (.keyframe, "keyframe"), (.index, "index"), (.end, "end"),
    ]

    /// A name for people; `type N` for a number without one.
    public var name: String {
        Self.names.first { $0.0 == self }?.1 ?? "type \(rawValue)"
    }
}

/// How a payload is stored.
enum Compression: UInt8 {
    case none = 0
    case lz4 = 1
}

/// The 128 bytes before every payload (FORMAT.md, "Block header").
struct BlockHeader: Equatable {
    static let bytes = 128
    /// High bit, a name, and line ends that text transfer would change.
    static let magic: UInt64 = 0x0A1A_0D42_544D_5689

    var type: BlockType
    var compression: Compression = .none
    var flags: UInt16 = 0
    /// Blocks before this one in the file.
    var sequence: UInt32
    var storedLength: UInt32
    var rawLength: UInt32
    /// The number of the first exit in this block or after it.
    var firstExit: UInt64 = 0
    var exitCount: UInt32 = 0
    var eventCount: UInt32 = 0
    /// From the run's first event to the end of this block.
    var digests = RunningDigests()
    /// Nanoseconds from the start of the recording to the block's first exit; 0 without timing.
    var hostNanoseconds: UInt64 = 0
    var payloadHash: UInt64

    /// Bytes from this header to the next.
    var span: UInt64 { UInt64(Self.bytes) + (UInt64(storedLength) + 7) & ~7 }

    /// Appends the 128 bytes. `identity` ties the block to its file.
    func append(to buffer: inout ByteBuffer, identity: UInt64) {
        let start = buffer.count
        buffer.append(Self.magic)
        buffer.append(type.rawValue)
        buffer.append(compression.rawValue)
        buffer.append(flags)
        buffer.append(sequence)
        buffer.append(storedLength)
        buffer.append(rawLength)
        buffer.append(firstExit)
        buffer.append(exitCount)
        buffer.append(eventCount)
        buffer.append(digests.outputCount)
        buffer.append(digests.inputCount)
        for digest in [digests.full, digests.output, digests.input] {
            buffer.append(digest.low)
            buffer.append(digest.high)
        }
        buffer.append(hostNanoseconds)
        buffer.append(payloadHash)
        // SAFETY: the 120 bytes were just appended.
        let hash = unsafe hash64(UnsafeRawBufferPointer(rebasing: buffer.bytes[start...]))
        buffer.append(hash ^ identity)
    }

    /// The identity that a header's check claims, if it looks like one of a block at all.
    static func claimedIdentity(_ bytes: UnsafeRawBufferPointer) -> UInt64? {
        guard bytes.count >= Self.bytes, let base = bytes.baseAddress else { return nil }
        // SAFETY: 128 bytes are there.
        guard unsafe base.get(UInt64.self, at: 0) == magic else { return nil }
        return unsafe base.get(UInt64.self, at: 120)
            ^ hash64(UnsafeRawBufferPointer(start: base, count: 120))
    }

    /// Reads and checks a header; nil where the bytes are not one of this file.
    init?(_ bytes: UnsafeRawBufferPointer, identity: UInt64) {
        guard unsafe Self.claimedIdentity(bytes) == identity else { return nil }
        // SAFETY: `claimedIdentity` checked that 128 bytes are there; the reader checks again.
        var reader = unsafe ByteReader(bytes, "a block header")
        do throws(Malformed) {
            try reader.skip(8)
            type = BlockType(rawValue: try reader.integer())
            guard let compression = Compression(rawValue: try reader.integer()) else {
                return nil
            }
            self.compression = compression
            flags = try reader.integer()
            sequence = try reader.integer()
            storedLength = try reader.integer()
            rawLength = try reader.integer()
            firstExit = try reader.integer()
            exitCount = try reader.integer()
            eventCount = try reader.integer()
            digests.outputCount = try reader.integer()
            digests.inputCount = try reader.integer()
            digests.full = try reader.digest()
            digests.output = try reader.digest()
            digests.input = try reader.digest()
            hostNanoseconds = try reader.integer()
            payloadHash = try reader.integer()
        } catch { return nil }
        let limit = UInt32(Limits.payloadBytes)
        guard flags == 0, storedLength <= limit, rawLength <= limit,
            compression == .lz4 || storedLength == rawLength,
            UInt64(exitCount) <= Limits.cellExits, eventCount <= UInt32(Limits.blockEvents),
            firstExit <= UInt64.max - Limits.cellExits
        else { return nil }
    }

    init(
        type: BlockType, sequence: UInt32, storedLength: UInt32 = 0, rawLength: UInt32 = 0,
        payloadHash: UInt64 = 0
    ) {
        self.type = type
        self.sequence = sequence
        self.storedLength = storedLength
        self.rawLength = rawLength
        self.payloadHash = payloadHash
    }
}

/// The first 64 bytes of a file (FORMAT.md, "Prelude").
struct Prelude: Equatable {
    static let bytes = 64
    static let magic: UInt64 = 0x0A45_5041_544D_5689
    /// The version written, and the oldest reader's version that may read it.
    static let version: UInt16 = 1
    static let architectureX86_64: UInt16 = 1
    static let timingFlag: UInt32 = 1 << 0
    /// The blocks of events have the columns of the world stream.
    static let worldFlag: UInt32 = 1 << 16
    /// A reader must know the flags in these bits, and may ignore the others.
    static let mandatoryFlags: UInt32 = 0xFFFF

    var writeVersion = Self.version
    var readVersion = Self.version
    var architecture = Self.architectureX86_64
    var flags: UInt32 = 0
    var identity: UInt64

    var hasTiming: Bool { flags & Self.timingFlag != 0 }
    var hasWorldStream: Bool { flags & Self.worldFlag != 0 }

    func append(to buffer: inout ByteBuffer) {
        let start = buffer.count
        buffer.append(Self.magic)
        buffer.append(writeVersion)
        buffer.append(readVersion)
        buffer.append(architecture)
        buffer.append(UInt16(Self.bytes))
        buffer.append(flags)
        buffer.append(UInt32(Limits.cellExits))
        buffer.append(identity)
        buffer.append(zeros: 24)
        // SAFETY: the 56 bytes were just appended.
        let hash = unsafe hash64(UnsafeRawBufferPointer(rebasing: buffer.bytes[start...]))
        buffer.append(hash)
    }

    /// What the first bytes of a file are.
    enum Reading: Equatable {
        case good(Prelude)
        /// The check does not hold.
        case damaged
        /// Not the first bytes of a trace.
        case foreign
        /// A trace that this version cannot read, and why.
        case unreadable(TraceError.Code, String)
    }

    static func read(_ bytes: UnsafeRawBufferPointer) -> Reading {
        guard bytes.count >= Self.bytes, let base = bytes.baseAddress else { return .foreign }
        // SAFETY: 64 bytes are there.
        let hasMagic = unsafe base.get(UInt64.self, at: 0) == magic
        let check = unsafe base.get(UInt64.self, at: 56)
        guard unsafe hash64(UnsafeRawBufferPointer(start: base, count: 56)) == check else {
            return hasMagic ? .damaged : .foreign
        }
        guard hasMagic else { return .foreign }
        var prelude = unsafe Prelude(identity: base.get(UInt64.self, at: 24))
        prelude.writeVersion = unsafe base.get(UInt16.self, at: 8)
        prelude.readVersion = unsafe base.get(UInt16.self, at: 10)
        prelude.architecture = unsafe base.get(UInt16.self, at: 12)
        prelude.flags = unsafe base.get(UInt32.self, at: 16)
        guard prelude.readVersion <= version else {
            return .unreadable(
                .newerVersion,
                "the trace needs a reader of format \(prelude.readVersion), this one reads "
                    + "format \(version): use a newer vmtape")
        }
        guard prelude.flags & mandatoryFlags & ~timingFlag == 0 else {
            return .unreadable(
                .newerVersion,
                "the trace uses features (flags \(prelude.flags)) that this reader does not "
                    + "know: use a newer vmtape")
        }
        guard prelude.architecture == architectureX86_64 else {
            return .unreadable(
                .newerVersion,
                "the trace is of architecture \(prelude.architecture); only 1, x86-64, is known")
        }
        let rest = unsafe (
            base.get(UInt16.self, at: 14), base.get(UInt32.self, at: 20),
            base.get(UInt64.self, at: 32), base.get(UInt64.self, at: 40),
            base.get(UInt64.self, at: 48)
        )
        guard rest == (UInt16(Self.bytes), UInt32(Limits.cellExits), 0, 0, 0) else {
            return .unreadable(
                .newerVersion, "the trace's prelude sets reserved bytes: use a newer vmtape")
        }
        return .good(prelude)
    }
}
