/// What verifying a trace found.
public struct VerifyReport: Equatable, Sendable {
    /// Everything that is wrong, in file order; what was found at opening comes first.
    public var damages: [Damage]
    /// The recording was finished.
    public var isComplete: Bool
    /// Blocks of all types that are sound.
    public var soundBlocks: Int
    /// Exits that can be read.
    public var readableExits: UInt64
    /// Events that can be read.
    public var readableEvents: UInt64
    /// Images whose bytes have their digest.
    public var soundImages: Int
    /// The digests of the run to its last block, if that can be read. With damage before it, they are
    /// what the block's header says, and could not be computed.
    public var digests: RunningDigests?
    /// The end names a digest of RAM, and the hashes of its pages add up to it.
    public var hasMemoryDigest: Bool

    /// Nothing is damaged; the recording may still be unfinished.
    public var isSound: Bool { damages.isEmpty }
}

extension TraceReader {
    /// Reads the whole trace: structure, checksums, rows, counts, digests, images.
    ///
    /// `progress` is called after each block with the bytes done and the bytes there are.
    public func verify(
        progress: (_ done: UInt64, _ total: UInt64) -> Void = { _, _ in }
    ) -> VerifyReport {
        var report = VerifyReport(
            damages: damages, isComplete: isComplete, soundBlocks: 0, readableExits: 0,
            readableEvents: 0, soundImages: 0, digests: nil, hasMemoryDigest: false)
        verifyStructure(&report, progress)
        verifyEvents(&report, progress)
        for index in header.images.indices {
            do throws(TraceError) {
                _ = try imageBytes(index)
                report.soundImages += 1
            } catch { report.add(error) }
        }
        do throws(TraceError) { report.hasMemoryDigest = try memoryDigest() != nil } catch {
            report.add(error)
        }
        return report
    }

    /// Every block's header, place and payload.
    private func verifyStructure(
        _ report: inout VerifyReport, _ progress: (UInt64, UInt64) -> Void
    ) {
        var loader = makeLoader()
        var expected = UInt64(64)
        var sequence: UInt32 = 0
        for (index, entry) in map.entries.enumerated() {
            do throws(TraceError) {
                let header = try loader.load(at: entry.offset)
                // A pass over headers has reported gaps; an index must leave none.
                if isComplete, entry.offset != expected || header.sequence != sequence {
                    throw source.damaged(expected, "bytes that belong to no block")
                }
                guard BlockEntry(offset: entry.offset, header) == entry else {
                    throw source.damaged(entry.offset, "the block is not the one the index names")
                }
                expected = entry.offset + header.span
                sequence = header.sequence &+ 1
                report.soundBlocks += 1
            } catch {
                report.add(error)
                // What follows is judged by itself.
                if index + 1 < map.entries.count {
                    expected = map.entries[index + 1].offset
                    sequence &+= 1
                }
            }
            progress(min(expected, fileBytes), fileBytes)
        }
        if isComplete { report.soundBlocks += 1 }
    }

    /// Every event, and the digests over them.
    private func verifyEvents(
        _ report: inout VerifyReport, _ progress: (UInt64, UInt64) -> Void
    ) {
        var loader = makeLoader()
        var decoder = ColumnDecoder()
        var rows = RowBuffer()
        /// nil: what is before is damaged, and the next block's header is believed.
        var digests: RunningDigests? = RunningDigests()
        var states: [VCPUState]?
        var nextExit: UInt64 = 0
        for index in 0..<eventBlockCount {
            if gap(beforeBlock: index, nextExit: nextExit) != nil {
                digests = nil
                states = nil
            }
            nextExit = exits(ofBlock: index).upperBound
            do throws(TraceError) {
                let summary = try summary(ofBlock: index)
                try load(index, &loader, &decoder, into: &rows)
                if let states, states != rows.baseline {
                    throw source.damaged(
                        offset(ofBlock: index), "the registers do not go on from the block before")
                }
                var roller = DigestRoller(digests ?? RunningDigests())
                var reader = RowReader(states: rows.baseline)
                do throws(Malformed) {
                    for row in rows.ends.indices {
                        let bytes = unsafe rows.row(row)
                        unsafe roller.add(bytes, try RowView(bytes))
                        _ = try unsafe reader.read(bytes, offset: 0)
                    }
                } catch { throw source.damaged(offset(ofBlock: index), error.what) }
                if digests != nil, roller.digests != summary.digests {
                    throw source.damaged(
                        offset(ofBlock: index), "the events do not have the block's digests")
                }
                digests = summary.digests
                states = reader.states
                report.readableExits += UInt64(summary.exitCount)
                report.readableEvents += UInt64(summary.eventCount)
            } catch {
                report.add(error, lostExits: exits(ofBlock: index))
                digests = nil
                states = nil
            }
            report.digests = digests
        }
        if let end = map.end, report.isSound {
            if end.eventCount != report.readableEvents || end.exitCount != report.readableExits {
                report.damages.append(
                    Damage(nil, "the end block counts other events than there are"))
            }
        }
    }
}

extension VerifyReport {
    /// Adds an error; one about a place that was reported already only adds what is lost.
    fileprivate mutating func add(_ error: TraceError, lostExits: Range<UInt64>? = nil) {
        let lost = lostExits.map { $0.isEmpty ? nil : $0 } ?? nil
        if let offset = error.offset,
            let known = damages.firstIndex(where: { $0.offset == offset })
        {
            if damages[known].lostExits == nil { damages[known].lostExits = lost }
            return
        }
        damages.append(Damage(error.offset, error.message, lostExits: lost))
    }
}
