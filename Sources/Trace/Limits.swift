/// The bounds of format 1. Every size in a file is checked against these before it is used.
enum Limits {
    /// Exits in a cell; a block never crosses a cell's end.
    static let cellExits: UInt64 = 4096
    /// A row is at most this long.
    static let rowBytes = 66 * 1024
    /// Bytes of one port access.
    static let portDataBytes = 4096
    /// Raw bytes of an exit whose reason has no layout here.
    static let otherExitBytes = 256
    /// Numbers in an internal error or a system event.
    static let detailWords = 16
    /// Bytes of one answer.
    static let answerBytes = 4096
    /// Bytes of one device write; a longer one is split.
    static let deviceWriteBytes = 64 * 1024
    /// Bytes of the changes in one completion.
    static let completionBytes = 64 * 1024
    /// Bytes of console input in one world event.
    static let worldInputBytes = 4096
    /// At this many bytes of world events, counted like events, a block ends before the next of them.
    static let worldBlockBytes = 128 * 1024
    /// So one block never holds more of them (the shortest row is one byte).
    static let worldBlockEvents = worldBlockBytes / 9 + 1
    /// vCPUs of one machine.
    static let vCPUs = 256

    /// What one event counts towards the end of a block: its row and this.
    static let eventOverhead = 8
    /// At this many counted bytes a block ends before the next exit.
    static let softBlockBytes = 256 * 1024
    /// At this many counted bytes a block ends before the next event of any kind.
    static let hardBlockBytes = 320 * 1024
    /// So the rows of one block are never more than this.
    static let blockRowBytes = hardBlockBytes + rowBytes
    /// And its events never more than this (a row is at least two bytes).
    static let blockEvents = hardBlockBytes / (eventOverhead + 2) + 1

    /// A block's payload, raw or stored.
    static let payloadBytes = 4 * 1024 * 1024
    /// Image bytes in one block.
    static let imageChunkBytes = 1024 * 1024
    /// Entries of one index block.
    static let indexEntries = 65_536
    /// Pages in one block of the RAM digest.
    static let digestPages = 65_536

    /// Pages in one block of a keyframe file.
    static let keyframeBlockPages = 16
    /// Numbers in one part of a keyframe.
    static let keyframePartWords = 64 * 1024
    /// Parts of one keyframe.
    static let keyframeParts = 64
}
