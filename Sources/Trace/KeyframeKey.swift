/// What a keyframe file goes with: one recording, and what the keyframes depend on beside it.
public struct KeyframeKey: Equatable, Sendable {
    /// The trace's ``TraceReader/identity``.
    public var identity: UInt64
    /// The trace's exits.
    public var exitCount: UInt64
    /// The full digest over all of the trace.
    public var digest: Digest128
    /// Host and versions: keyframes are good where all of these are the same.
    public var conditions: [Property]

    init(identity: UInt64, exitCount: UInt64, digest: Digest128, conditions: [Property]) {
        self.identity = identity
        self.exitCount = exitCount
        self.digest = digest
        self.conditions = conditions
    }

    /// The key of a trace.
    ///
    /// Errors: the trace's last block is damaged.
    public init(_ trace: TraceReader, conditions: [Property]) throws(TraceError) {
        identity = trace.identity
        exitCount = trace.exitCount
        digest = try trace.digests(before: trace.exitCount).full
        self.conditions = conditions
    }

    /// What one differs in from the key of a file, as the rest of "the keyframe file is"; nil:
    /// nothing.
    func difference(_ file: KeyframeKey) -> String? {
        guard (identity, exitCount, digest) == (file.identity, file.exitCount, file.digest) else {
            return "of another recording"
        }
        for (mine, its) in zip(conditions, file.conditions) where mine != its {
            return "of another host or version: \(mine.key) is \(mine.value) here and "
                + "\(its.value) there"
        }
        return conditions.count == file.conditions.count ? nil : "of another host or version"
    }

    // The payload of the head block.

    private enum Tag {
        static let trace: UInt32 = 1
        static let condition: UInt32 = 2
    }

    /// The payload of the head block.
    var payload: [UInt8] {
        var writer = TLVWriter()
        writer.item(Tag.trace) {
            $0.append(identity)
            $0.append(exitCount)
            $0.append(digest.low)
            $0.append(digest.high)
        }
        for condition in conditions { writer.item(Tag.condition, condition) }
        return writer.buffer.array()
    }

    init(payload: UnsafeRawBufferPointer) throws(Malformed) {
        self.init(identity: 0, exitCount: 0, digest: .zero, conditions: [])
        try unsafe forEachItem(in: payload, "the keyframe head") { tag, value throws(Malformed) in
            switch tag {
            case Tag.trace:
                identity = try value.integer()
                exitCount = try value.integer()
                digest = try value.digest()
            case Tag.condition: conditions.append(try value.property())
            default: break
            }
        }
    }
}

/// The first 64 bytes of a keyframe file (FORMAT.md, "Keyframe file").
struct KeyframePrelude: Equatable {
    static let magic: UInt64 = 0x0A59_454B_544D_5689
    static let version: UInt16 = 1

    /// Ties the blocks to the file: the hash of the head block's payload.
    var identity: UInt64

    func append(to buffer: inout ByteBuffer) {
        let start = buffer.count
        buffer.append(Self.magic)
        buffer.append(Self.version)
        buffer.append(Self.version)
        buffer.append(Prelude.architectureX86_64)
        buffer.append(UInt16(Prelude.bytes))
        buffer.append(UInt32(0))
        buffer.append(UInt32(Limits.keyframeBlockPages))
        buffer.append(identity)
        buffer.append(zeros: 24)
        // SAFETY: the 56 bytes were just appended.
        buffer.append(unsafe hash64(UnsafeRawBufferPointer(rebasing: buffer.bytes[start...])))
    }

    /// What the first bytes of a file are.
    enum Reading: Equatable {
        case good(KeyframePrelude)
        /// A keyframe file's, but not one to be read.
        case unusable(String)
        /// Not of a keyframe file.
        case foreign
    }

    static func read(_ bytes: UnsafeRawBufferPointer) -> Reading {
        // SAFETY: eight bytes are there where they are read, and 64 after the guard.
        guard bytes.count >= 8, let base = bytes.baseAddress,
            unsafe base.get(UInt64.self, at: 0) == magic
        else { return .foreign }
        guard bytes.count >= Prelude.bytes else { return .unusable("cut off") }
        let check = unsafe base.get(UInt64.self, at: 56)
        guard unsafe hash64(UnsafeRawBufferPointer(start: base, count: 56)) == check else {
            return .unusable("damaged at its beginning")
        }
        let prelude = unsafe KeyframePrelude(identity: base.get(UInt64.self, at: 24))
        var expected = ByteBuffer(capacity: Prelude.bytes)
        prelude.append(to: &expected)
        let isOurs = unsafe expected.bytes.elementsEqual(
            UnsafeRawBufferPointer(start: base, count: Prelude.bytes))
        return isOurs ? .good(prelude) : .unusable("of another version of the format")
    }
}
