internal import Machine
internal import Threads

#if canImport(Glibc)
    private import Glibc
#endif

/// A trace that has just been created: its file with the header in it, its side file, and the
/// thread that writes blocks.
struct NewTrace {
    let progress: TraceProgress
    let ring: EventRing
    let core: WriterCore
    let thread: WorkerThread

    /// Errors: see ``TraceWriter/init(path:header:options:)``; then nothing is left behind.
    init(
        _ path: String, _ fullHeader: TraceHeader, _ options: TraceOptions
    ) throws(TraceError) {
        let partial = Paths.partial(path)
        let output = try Self.create(path, options)
        var header = fullHeader
        if options.timing == nil { header.observed = nil }
        let payloads = HeaderCoding.payloads(of: header)
        let identity = HeaderCoding.identity(of: payloads)
        var blocks = BlockWriter(
            output, path: partial, identity: identity,
            maximumFileBytes: options.maximumFileBytes)
        do throws(TraceError) {
            try Self.write(header, payloads, identity, options, to: &blocks)
        } catch {
            // Nothing was recorded yet: half a header is of no use to anyone.
            Paths.remove(partial)
            throw error
        }
        progress = TraceProgress()
        progress.set(bytes: blocks.offset)

        let sideHeader = SideHeader(
            vCPUCount: header.machine.vCPUCount, timing: options.timing,
            hasWorldStream: options.hasWorldStream, identity: identity,
            firstSequence: blocks.sequence, slotCount: options.ringSlots)
        let sidePath = Paths.tail(ofPartial: partial)
        do throws(SystemError) {
            let side = try Descriptor(sidePath, flags: O_RDWR | O_CREAT | O_EXCL)
            ring = try EventRing(side, sideHeader)
        } catch {
            Paths.remove(sidePath)
            Paths.remove(partial)
            throw TraceError(error, file: sidePath, "cannot create the trace's side file")
        }
        let core = WriterCore(
            blocks, ring, progress,
            ColumnEncoder(
                vCPUCount: header.machine.vCPUCount, timing: options.timing,
                hasWorldStream: options.hasWorldStream))
        do throws(ThreadError) {
            thread = try WorkerThread("to write the trace") { core.run() }
        } catch {
            Paths.remove(sidePath)
            Paths.remove(partial)
            throw TraceError(error, file: partial)
        }
        self.core = core
    }

    private static func create(
        _ path: String, _ options: TraceOptions
    ) throws(TraceError) -> Descriptor {
        let partial = Paths.partial(path)
        let advice = "choose another name, or allow overwriting"
        switch PathKind(path) {
        case .nothing: break
        case .regularFile:
            guard options.overwrites else {
                throw TraceError(.exists, file: path, "the file exists: \(advice)")
            }
        case .other:
            throw TraceError(
                .exists, file: path, "this is no regular file: choose another name")
        }
        if PathKind(partial) != .nothing {
            guard options.overwrites else {
                throw TraceError(
                    .exists, file: partial,
                    "an interrupted recording is there, and can be read: \(advice)")
            }
            guard !isBeingWritten(partial) else {
                throw TraceError(
                    .exists, file: partial, "this is being recorded now: choose another name")
            }
            Paths.remove(partial)
        }
        do throws(SystemError) {
            Paths.remove(Paths.tail(ofPartial: partial))
            let file = try Descriptor(partial, flags: O_RDWR | O_CREAT | O_EXCL)
            _ = file.lock()
            return file
        } catch {
            throw TraceError(error, file: partial, "cannot create the trace")
        }
    }

    /// Another process holds the lock of a partial trace.
    private static func isBeingWritten(_ partial: String) -> Bool {
        do throws(SystemError) {
            let old = try Descriptor(partial, flags: O_RDONLY)
            return !old.lock()
        } catch { return false }
    }

    private static func write(
        _ header: TraceHeader, _ payloads: [MetadataPayload], _ identity: UInt64,
        _ options: TraceOptions, to blocks: inout BlockWriter
    ) throws(TraceError) {
        guard header.images.count <= HeaderCoding.maximumImages else {
            throw TraceError(
                .tooLarge, file: blocks.path,
                "\(header.images.count) images, and \(HeaderCoding.maximumImages) is the most")
        }
        var prelude = Prelude(identity: identity)
        if options.timing != nil { prelude.flags |= Prelude.timingFlag }
        if options.hasWorldStream { prelude.flags |= Prelude.worldFlag }
        try blocks.prelude(prelude)
        for payload in payloads {
            // SAFETY: the payload outlives the call.
            try blocks.metadata(payload.type, payload.bytes)
        }
        for (index, image) in header.images.enumerated() {
            guard image.byteCount <= ImageRecord.maximumBytes else {
                throw TraceError(
                    .tooLarge, file: blocks.path,
                    "image \(image.name) has \(image.byteCount) bytes, and "
                        + "\(ImageRecord.maximumBytes) is the most")
            }
            for segment in image.segments {
                var begin = 0
                while begin < segment.bytes.count {
                    let end = min(begin + Limits.imageChunkBytes, segment.bytes.count)
                    var chunk = ByteBuffer(capacity: end - begin + 16)
                    chunk.append(UInt32(index))
                    chunk.append(UInt32(0))
                    chunk.append(segment.offset + UInt64(begin))
                    chunk.append(Array(segment.bytes[begin..<end]))
                    try blocks.metadata(.imageBytes, chunk.array())
                    begin = end
                }
            }
        }
    }
}
