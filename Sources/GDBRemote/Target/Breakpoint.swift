/// A place or a stretch of memory at which a run is to stop: one `Z` packet.
public struct Breakpoint: Hashable, Sendable {
    /// What stops the run; the raw value is the digit of the `Z` packet.
    public enum Kind: UInt8, CaseIterable, Sendable {
        /// Execution; the debugger would be content with an instruction written to memory.
        case software = 0
        /// Execution; the debugger asks for hardware.
        case hardware = 1
        /// A write.
        case write = 2
        /// A read.
        case read = 3
        /// A read or a write.
        case access = 4

        /// Whether it stops at data and not at execution.
        public var isWatchpoint: Bool { rawValue >= 2 }
    }

    /// What stops the run.
    public var kind: Kind
    /// The first byte, as a linear address.
    public var address: UInt64
    /// Watchpoints: bytes watched, 1 to ``Limits/watchedBytes``, without wrapping round the end of
    /// memory. Else 1.
    public var length: UInt64

    /// Makes a breakpoint.
    public init(kind: Kind, address: UInt64, length: UInt64 = 1) {
        self.kind = kind
        self.address = address
        self.length = length
    }

    /// The last byte. The end after it may be 2^64, which no number of 64 bits is.
    public var last: UInt64 { address &+ (length &- 1) }

    /// The first byte that both this and `count` bytes from an address cover; nil: there is none.
    ///
    /// - Parameter count: at least 1; what goes beyond the end of memory is left out.
    public func firstShared(with start: UInt64, count: UInt64) -> UInt64? {
        let (sum, overflow) = start.addingReportingOverflow(count &- 1)
        let end = overflow ? UInt64.max : sum
        return start <= last && address <= end ? max(start, address) : nil
    }
}
