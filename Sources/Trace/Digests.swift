private import CXXHash

/// A 128-bit digest.
public struct Digest128: Hashable, Sendable, CustomStringConvertible {
    /// The low half; it comes first in the file.
    public var low: UInt64
    /// The high half.
    public var high: UInt64

    /// Makes a digest of its halves.
    public init(low: UInt64 = 0, high: UInt64 = 0) {
        self.low = low
        self.high = high
    }

    /// The digest of nothing yet.
    public static let zero = Digest128()

    /// 32 hexadecimal digits, the high half first, as `xxh128sum` prints them.
    public var description: String { hexadecimal(high) + hexadecimal(low) }

    /// The XXH3-128 digest of some bytes, as `xxh128sum` computes it.
    public init(of bytes: [UInt8]) {
        // SAFETY: the array outlives the call.
        self = unsafe bytes.withUnsafeBytes { unsafe Digest128(of: $0) }
    }

    /// The XXH3-128 digest of some bytes, as `xxh128sum` computes it.
    public init(of bytes: UnsafeRawBufferPointer) {
        // SAFETY: the pointer covers `count` bytes (XXH3 accepts nil for none).
        let hash = unsafe XXH3_128bits(bytes.baseAddress, bytes.count)
        self.init(low: hash.low64, high: hash.high64)
    }
}

/// 16 hexadecimal digits.
func hexadecimal(_ value: UInt64) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 16 - digits.utf8.count) + digits
}

/// The XXH3-64 hash of some bytes.
@inline(__always)
func hash64(_ bytes: UnsafeRawBufferPointer, seed: UInt64 = 0) -> UInt64 {
    // SAFETY: the pointer covers `count` bytes.
    unsafe XXH3_64bits_withSeed(bytes.baseAddress, bytes.count, seed)
}

/// The three running digests of a run, and how many events each covers.
///
/// Each is a chain: D' = XXH3-128(D as 16 little-endian bytes, then the event's bytes), from zero.
/// A chain can be taken up at any block from what the block before it says.
public struct RunningDigests: Equatable, Sendable {
    /// Every deterministic byte: over the row of each event.
    public var full = Digest128.zero
    /// What the guest did to the outside, without registers: writes to ports, device memory and
    /// MSRs, and the end.
    public var output = Digest128.zero
    /// What the outside did to the guest: answers, completions, interruptions, device writes.
    public var input = Digest128.zero
    /// Events in ``output``.
    public var outputCount: UInt64 = 0
    /// Events in ``input``.
    public var inputCount: UInt64 = 0

    /// The digests of a run with no event yet.
    public init() {}
}

/// Rolls running digests forward, one row at a time.
public struct DigestRoller: ~Copyable {
    /// The digests of what was taken in so far.
    public internal(set) var digests: RunningDigests
    /// The digest so far, then the bytes of the event: what XXH3 is given in one piece.
    private var scratch = ByteBuffer(capacity: 16 + Limits.rowBytes)

    /// Goes on from digests, as the block before says them.
    public init(_ digests: RunningDigests = RunningDigests()) { self.digests = digests }

    /// Takes in one row, as ``EventCursor/row`` gives it; bytes that are no row change nothing.
    public mutating func add(_ row: [UInt8]) {
        // SAFETY: the array outlives the call.
        unsafe row.withUnsafeBytes { bytes in
            guard let view = try? unsafe RowView(bytes) else { return }
            unsafe add(bytes, view)
        }
    }

    /// Takes in one row, of which `view` was made.
    mutating func add(_ row: UnsafeRawBufferPointer, _ view: RowView) {
        digests.full = chain(digests.full) { unsafe $0.append(row) }
        switch view.kind {
        case .answer, .completion, .interruption, .deviceWrite:
            digests.input = chain(digests.input) { unsafe $0.append(row) }
            digests.inputCount &+= 1
        case .exit:
            guard view.isOutput else { return }
            digests.output = chain(digests.output) { unsafe view.appendOutput(of: row, to: &$0) }
            digests.outputCount &+= 1
        case .end:
            digests.output = chain(digests.output) { unsafe view.appendOutput(of: row, to: &$0) }
            digests.outputCount &+= 1
        case .start: return
        }
    }

    @inline(__always)
    private mutating func chain(
        _ digest: Digest128, _ event: (inout ByteBuffer) -> Void
    ) -> Digest128 {
        scratch.removeAll()
        scratch.append(digest.low)
        scratch.append(digest.high)
        event(&scratch)
        return unsafe Digest128(of: scratch.bytes)
    }
}
