internal import Machine
public import Trace

/// What there is to say about a trace as a whole, without reading its events.
public struct TraceInfo: Sendable {
    /// The file.
    public var path: String
    /// Machine, host, images, command line, and so on.
    public var header: TraceHeader
    /// The recording was finished, and index and end are sound.
    public var isComplete: Bool
    /// Whether it holds host times.
    public var hasTiming: Bool
    /// Whether it holds what devices took from outside.
    public var hasWorldStream: Bool
    /// The number after the last readable exit.
    public var exitCount: UInt64
    /// Blocks of events, and how many of them are in the side file yet.
    public var blockCount: Int
    /// Blocks in the side file.
    public var tailBlockCount: Int
    /// Events of all kinds in readable blocks.
    public var eventCount: UInt64
    /// Bytes of the file, without its side file.
    public var fileBytes: UInt64
    /// Bytes of the blocks of events, headers included.
    public var eventBytes: UInt64
    /// The digests of the whole run; nil where the last block is damaged.
    public var digests: RunningDigests?
    /// How the run ended; nil for an incomplete recording.
    public var end: EndState?
    /// Host time from the start to the last exit, in nanoseconds.
    public var durationNanoseconds: UInt64?
    /// What is damaged, one line each.
    public var damages: [String]

    /// Gathers it: reads block headers and the last block.
    public init(_ reader: TraceReader) {
        path = reader.path
        header = reader.header
        isComplete = reader.isComplete
        hasTiming = reader.hasTiming
        hasWorldStream = reader.hasWorldStream
        exitCount = reader.exitCount
        blockCount = reader.eventBlockCount
        fileBytes = reader.fileBytes
        tailBlockCount = 0
        eventCount = 0
        eventBytes = 0
        damages = reader.damages.map { String(describing: $0) }
        for index in 0..<reader.eventBlockCount {
            do throws(TraceError) {
                let summary = try reader.summary(ofBlock: index)
                eventCount &+= UInt64(summary.eventCount)
                eventBytes &+= UInt64(max(summary.storedBytes, 0))
                if summary.isInTail { tailBlockCount += 1 }
                digests = summary.digests
            } catch {
                damages.append(error.description)
                digests = nil
            }
        }
        do throws(TraceError) {
            end = try reader.end()
            if hasTiming, exitCount > 0 {
                var cursor = try reader.events(from: exitCount - 1)
                if try cursor.next() != nil {
                    durationNanoseconds = cursor.time?.returnedNanoseconds
                }
            }
        } catch {
            damages.append(error.description)
        }
    }

    /// Bytes of events per exit; nil without exits.
    public var bytesPerExit: Double? {
        exitCount == 0 ? nil : Double(eventBytes) / Double(exitCount)
    }

    /// In how many rows the CPUID table that the guest sees differs from the one asked for.
    public var differingCPUIDRows: Int {
        let requested = Set(header.requestedCPUID)
        let observed = Set(header.observedCPUID)
        return requested.symmetricDifference(observed).count
    }
}
