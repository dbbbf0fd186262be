public import Machine

/// What a trace holds beside the run itself: how it ended, the images, the hashes of RAM.
extension TraceReader {
    /// The end of the run with its final registers; nil where the recording has none.
    ///
    /// Errors: the last block is damaged.
    public func end() throws(TraceError) -> EndState? {
        guard eventBlockCount > 0 else { return nil }
        var cursor = try EventCursor(self, block: eventBlockCount - 1, exit: nil)
        var result: EndState?
        while let event = try cursor.next() {
            if case .end(let end) = event {
                result = EndState(
                    event: end, registers: cursor.registers, system: cursor.system,
                    vCPU: cursor.vCPU)
            }
        }
        return result
    }

    /// The bytes of an image, checked against its digest.
    ///
    /// Errors: there is no such image; its bytes are damaged.
    public func imageBytes(_ index: Int) throws(TraceError) -> [UInt8] {
        guard header.images.indices.contains(index) else {
            throw TraceError(
                .outOfRange, file: path, "there is no image \(index), but \(header.images.count)")
        }
        let image = header.images[index]
        guard image.byteCount <= ImageRecord.maximumBytes else {
            throw source.damaged(nil, "image \(index) claims \(image.byteCount) bytes")
        }
        var loader = makeLoader()
        var result: [UInt8] = []
        result.reserveCapacity(min(Int(image.byteCount), 64 << 20))
        for entry in map.entries where entry.type == .imageBytes {
            _ = try loader.load(at: entry.offset)
            do throws(Malformed) {
                // SAFETY: the reader checks every bound.
                var reader = unsafe ByteReader(loader.payload.bytes, "image bytes")
                guard try reader.integer(UInt32.self) == UInt32(index) else { continue }
                let reserved: UInt32 = try reader.integer()
                let offset: UInt64 = try reader.integer()
                guard reserved == 0, offset >= UInt64(result.count), offset <= image.byteCount,
                    UInt64(reader.remaining) <= image.byteCount - offset
                else { throw Malformed("the bytes do not fit image \(index)") }
                result += repeatElement(0, count: Int(offset) - result.count)
                unsafe result += try reader.bytes(reader.remaining)
            } catch { throw source.damaged(entry.offset, error.what) }
        }
        result += repeatElement(0, count: Int(image.byteCount) - result.count)
        guard Digest128(of: result) == image.digest else {
            throw source.damaged(
                nil, "the bytes of image \(index), \(image.name), do not have its digest")
        }
        return result
    }

    /// The hashes of the pages of RAM at the end; nil where the recording has none.
    ///
    /// Errors: their blocks are damaged, or do not have the digest that the end names.
    public func memoryDigest() throws(TraceError) -> MemoryDigest? {
        var loader = makeLoader()
        var pages: [MemoryDigest.Page] = []
        var first: UInt64?
        for entry in map.entries where entry.type == .memoryDigest {
            if first == nil { first = entry.offset }
            _ = try loader.load(at: entry.offset)
            do throws(Malformed) {
                try unsafe MemoryDigest.readPages(loader.payload.bytes, into: &pages)
            } catch { throw source.damaged(entry.offset, error.what) }
        }
        guard first != nil else { return nil }
        guard let result = MemoryDigest(pages: pages),
            let end = try end(), end.event.memory == result.digest
        else {
            throw source.damaged(first, "the hashes of RAM do not have the digest of the end")
        }
        return result
    }
}

/// The end of a run with its final registers.
public struct EndState: Equatable, Sendable {
    /// Why it ended.
    public var event: EndEvent
    /// Final general-purpose registers, RIP and RFLAGS.
    public var registers: GeneralRegisters
    /// Final system registers.
    public var system: SystemRegisters
    /// The vCPU they are of.
    public var vCPU: UInt8
}
