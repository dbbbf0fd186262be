/// The digest of the guest's RAM: a hash of each page that is not all zero, and their sum.
///
/// A page's hash is XXH3-64 of its 4096 bytes seeded with its number; its term is XXH3-128 of number
/// and hash (u64 each, little-endian); the digest is the sum of the terms modulo 2^128, so that one
/// page can be replaced without the others. Pages of zeros have no term.
public struct MemoryDigest: Equatable, Sendable {
    /// Bytes of a page.
    public static let pageBytes = 4096

    /// One page that is not all zero.
    public struct Page: Equatable, Sendable {
        /// Guest-physical address divided by 4096.
        public var number: UInt64
        /// The page's hash.
        public var hash: UInt64

        /// Makes a page of its number and hash.
        public init(number: UInt64, hash: UInt64) {
            self.number = number
            self.hash = hash
        }

        /// What the page adds to the digest.
        public var term: Digest128 {
            var bytes = (number.littleEndian, hash.littleEndian)
            // SAFETY: the tuple is 16 contiguous bytes.
            return unsafe withUnsafeBytes(of: &bytes) { unsafe Digest128(of: $0) }
        }
    }

    /// The pages that are not all zero, by ascending number.
    public private(set) var pages: [Page]
    /// The sum of their terms.
    public private(set) var digest: Digest128

    /// The digest of RAM that is all zero.
    public init() {
        pages = []
        digest = .zero
    }

    /// Makes a digest of pages in ascending order; nil where they are not.
    public init?(pages: [Page]) {
        var digest = Digest128.zero
        var last: UInt64?
        for page in pages {
            if let last, page.number <= last { return nil }
            last = page.number
            digest.add(page.term)
        }
        self.pages = pages
        self.digest = digest
    }

    /// The hash of one page, `bytes` being its 4096 bytes; nil where they are all zero.
    public static func page(number: UInt64, bytes: UnsafeRawBufferPointer) -> Page? {
        precondition(bytes.count == pageBytes)
        guard let base = bytes.baseAddress else { return nil }
        var any: UInt64 = 0
        var at = 0
        while at < pageBytes {
            // SAFETY: 32 bytes from `at` on lie within the page.
            any |= unsafe base.get(UInt64.self, at: at) | base.get(UInt64.self, at: at + 8)
            any |= unsafe base.get(UInt64.self, at: at + 16) | base.get(UInt64.self, at: at + 24)
            if any != 0 {
                return Page(number: number, hash: unsafe hash64(bytes, seed: number))
            }
            at += 32
        }
        return nil
    }

    /// Adds a page with a higher number than those before.
    public mutating func append(_ page: Page) {
        precondition(pages.last.map { $0.number < page.number } ?? true)
        pages.append(page)
        digest.add(page.term)
    }

    /// Replaces what is known of one page; nil: it is all zero now.
    ///
    /// - Returns: The hash that the page had; 0 where it was all zero.
    @discardableResult
    public mutating func replace(pageNumber: UInt64, with page: Page?) -> UInt64 {
        precondition(page == nil || page?.number == pageNumber)
        let low = firstIndex(from: pageNumber)
        var before: UInt64 = 0
        if low < pages.count, pages[low].number == pageNumber {
            before = pages[low].hash
            digest.subtract(pages[low].term)
            if let page {
                pages[low] = page
                digest.add(page.term)
            } else {
                pages.remove(at: low)
            }
        } else if let page {
            pages.insert(page, at: low)
            digest.add(page.term)
        }
        return before
    }

    /// The hash of a page; 0 where it is all zero.
    public func hash(ofPage number: UInt64) -> UInt64 {
        let index = firstIndex(from: number)
        return index < pages.count && pages[index].number == number ? pages[index].hash : 0
    }

    /// The index of the first page of this number or a higher one.
    private func firstIndex(from number: UInt64) -> Int {
        var low = 0
        var high = pages.count
        while low < high {
            let middle = (low + high) / 2
            if pages[middle].number < number { low = middle + 1 } else { high = middle }
        }
        return low
    }

    /// The pages in which two digests differ, by ascending number.
    public func differingPages(from other: MemoryDigest) -> [UInt64] {
        var result: [UInt64] = []
        var mine = 0
        var theirs = 0
        while mine < pages.count || theirs < other.pages.count {
            let a = mine < pages.count ? pages[mine].number : .max
            let b = theirs < other.pages.count ? other.pages[theirs].number : .max
            if a == b && mine < pages.count && theirs < other.pages.count {
                if pages[mine].hash != other.pages[theirs].hash { result.append(a) }
                mine += 1
                theirs += 1
            } else if theirs >= other.pages.count || (mine < pages.count && a < b) {
                result.append(a)
                mine += 1
            } else {
                result.append(b)
                theirs += 1
            }
        }
        return result
    }

    // A block: u32 count, then page numbers as varint differences to the one before (the first to
    // zero), then the hashes.

    func payload(_ range: Range<Int>) -> ByteBuffer {
        var buffer = ByteBuffer(capacity: range.count * 10 + 16)
        buffer.append(UInt32(range.count))
        var last: UInt64 = 0
        for page in pages[range] {
            buffer.append(varint: page.number &- last)
            last = page.number
        }
        for page in pages[range] { buffer.append(page.hash) }
        return buffer
    }

    static func readPages(
        _ payload: UnsafeRawBufferPointer, into pages: inout [Page]
    ) throws(Malformed) {
        // SAFETY: the reader checks every bound.
        var reader = unsafe ByteReader(payload, "the memory digest")
        let count = Int(try reader.integer(UInt32.self))
        guard count <= Limits.digestPages else { throw Malformed("a digest of \(count) pages") }
        let first = pages.count
        var number: UInt64 = 0
        for _ in 0..<count {
            number = number &+ (try reader.varint())
            pages.append(Page(number: number, hash: 0))
        }
        for index in first..<pages.count { pages[index].hash = try reader.integer() }
        guard reader.isAtEnd else { throw Malformed("the memory digest has bytes too many") }
    }
}

extension Digest128 {
    /// Addition modulo 2^128.
    mutating func add(_ other: Digest128) {
        let (sum, carry) = low.addingReportingOverflow(other.low)
        low = sum
        high = high &+ other.high &+ (carry ? 1 : 0)
    }

    /// Subtraction modulo 2^128.
    mutating func subtract(_ other: Digest128) {
        let (difference, borrow) = low.subtractingReportingOverflow(other.low)
        low = difference
        high = high &- other.high &- (borrow ? 1 : 0)
    }
}
