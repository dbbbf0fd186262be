/// What a block of events covers.
public struct BlockSummary: Equatable, Sendable {
    /// Its place among the blocks of events, from 0.
    public var index: Int
    /// Where it begins in the file, in bytes; in the side file where ``isInTail``.
    public var offset: UInt64
    /// The block is not in the trace yet but in its side file.
    public var isInTail: Bool
    /// The number of its first exit.
    public var firstExit: UInt64
    /// Its exits, 0 to 4096.
    public var exitCount: Int
    /// Its events of all kinds.
    public var eventCount: Int
    /// The digests from exit 0 to the end of this block; nil only in a side file that follows a gap.
    public var digests: RunningDigests?
    /// From the start of the recording to the return of the block's first exit, in nanoseconds; 0
    /// without timing.
    public var hostNanoseconds: UInt64
    /// Bytes it takes in the file, header included.
    public var storedBytes: Int
    /// Bytes of its payload before compression.
    public var rawBytes: Int

    /// The number of the first exit after the block.
    public var endExit: UInt64 { firstExit + UInt64(exitCount) }
}
