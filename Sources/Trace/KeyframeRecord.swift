public import Machine

/// One place of a run at which the whole machine is known, as a keyframe file has it.
///
/// What the parts mean is the business of who makes keyframes; memory is given page by page, where
/// it differs from the record before.
public struct KeyframeRecord: Equatable, Sendable {
    /// Some numbers under a tag.
    public struct Part: Equatable, Sendable {
        /// What they are; 16 or more.
        public var tag: UInt32
        /// The numbers, 65,536 at most.
        public var words: [UInt64]

        /// Makes a part.
        public init(tag: UInt32, words: [UInt64]) {
            self.tag = tag
            self.words = words
        }
    }

    /// What one page of memory holds from this record on.
    public struct Page: Equatable, Sendable {
        /// Which page, by its slot in the machine's memory.
        public var slot: UInt32
        /// Its content: a page of the file; nil: all zero.
        public var content: UInt32?

        /// Makes a page.
        public init(slot: UInt32, content: UInt32?) {
            self.slot = slot
            self.content = content
        }
    }

    /// Where it is.
    public var position: Position
    /// The digest of all of RAM here.
    public var memory: Digest128
    /// Registers and what else is no memory.
    public var parts: [Part]
    /// Pages that differ from the record before, by ascending slot.
    public var pages: [Page]
    /// Slots of pages that were written since the record before, ascending.
    public var written: [UInt32]

    /// Makes a record.
    public init(
        position: Position, memory: Digest128, parts: [Part], pages: [Page], written: [UInt32]
    ) {
        self.position = position
        self.memory = memory
        self.parts = parts
        self.pages = pages
        self.written = written
    }

    private enum Tag {
        static let position: UInt32 = 1
        static let memory: UInt32 = 2
        static let pages: UInt32 = 3
        static let written: UInt32 = 4
        /// From here on: parts.
        static let parts: UInt32 = 16
    }

    /// The payload of the record's block.
    var payload: [UInt8] {
        var writer = TLVWriter()
        writer.item(Tag.position) {
            $0.append(position.exitCount)
            $0.append(position.instructions)
            if let ring3 = position.ring3 { $0.append(ring3) }
        }
        writer.item(Tag.memory) {
            $0.append(memory.low)
            $0.append(memory.high)
        }
        writer.item(Tag.pages) {
            var last: UInt32 = 0
            for page in pages {
                $0.append(varint: UInt64(page.slot &- last))
                $0.append(varint: page.content.map { UInt64($0) + 1 } ?? 0)
                last = page.slot
            }
        }
        writer.item(Tag.written) {
            var last: UInt32 = 0
            for slot in written {
                $0.append(varint: UInt64(slot &- last))
                last = slot
            }
        }
        for part in parts {
            writer.item(part.tag) { for word in part.words { $0.append(word) } }
        }
        return writer.buffer.array()
    }

    /// Takes a block's payload apart; `pageCount` pages are in the file.
    init(payload: UnsafeRawBufferPointer, pageCount: UInt32) throws(Malformed) {
        self.init(position: .begin, memory: .zero, parts: [], pages: [], written: [])
        try unsafe forEachItem(in: payload, "a keyframe") { tag, value throws(Malformed) in
            switch tag {
            case Tag.position:
                position = Position(
                    exitCount: try value.integer(), instructions: try value.integer(),
                    ring3: value.isAtEnd ? nil : try value.integer())
            case Tag.memory: memory = try value.digest()
            case Tag.pages:
                while !value.isAtEnd {
                    let slot = try Self.slot(&value, after: pages.last?.slot)
                    let content = try value.varint()
                    guard content <= UInt64(pageCount) else {
                        throw Malformed("a keyframe names a page that the file does not have")
                    }
                    pages.append(
                        Page(slot: slot, content: content == 0 ? nil : UInt32(content - 1)))
                }
            case Tag.written:
                while !value.isAtEnd {
                    written.append(try Self.slot(&value, after: written.last))
                }
            case Tag.parts...:
                guard parts.count < Limits.keyframeParts, value.remaining % 8 == 0,
                    value.remaining / 8 <= Limits.keyframePartWords
                else { throw Malformed("a part of a keyframe has no sound length") }
                var words: [UInt64] = []
                words.reserveCapacity(value.remaining / 8)
                while !value.isAtEnd { words.append(try value.integer()) }
                parts.append(Part(tag: tag, words: words))
            default: break
            }
        }
    }

    /// A slot as a difference to the one before, which is smaller.
    private static func slot(
        _ value: inout ByteReader, after last: UInt32?
    ) throws(Malformed) -> UInt32 {
        let difference = try value.varint()
        let (sum, overflow) = UInt64(last ?? 0).addingReportingOverflow(difference)
        guard !overflow, sum <= UInt64(Int32.max), last == nil || difference > 0 else {
            throw Malformed("the pages of a keyframe are not in order")
        }
        return UInt32(sum)
    }
}
