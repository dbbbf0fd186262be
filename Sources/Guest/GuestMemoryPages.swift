import Glibc
import Machine

extension GuestMemory {
    /// Calls `body` for every page that holds a byte other than zero, in ascending order of page
    /// number (guest-physical address / 4096), with its 4096 bytes. ROM pages are included.
    ///
    /// Pages that were never touched are found by /proc/self/pagemap and not read, so that sparse
    /// RAM stays sparse; where pagemap cannot be read, every page is. The bytes may be used only
    /// inside `body`. Nothing is skipped by an error of `body`: it ends the walk.
    public func forEachNonZeroPage<Failure: Error>(
        _ body: (_ pageNumber: UInt64, _ bytes: UnsafeRawBufferPointer) throws(Failure) -> Void
    ) throws(Failure) {
        let pageLength = Int(RAMLayout.pageLength)
        var residency = PageResidency()
        for region in regions {
            // SAFETY: `page` runs over the whole pages of a region that this value keeps mapped.
            let count = Int(region.lengthInBytes) / pageLength
            let firstNumber = region.base.rawValue / RAMLayout.pageLength
            let host = unsafe region.host
            var page = 0
            while page < count {
                let window = min(count - page, PageResidency.windowLength)
                unsafe residency.load(host + page * pageLength, pageCount: window)
                for index in 0..<window where residency.mayHoldData(index) {
                    let bytes = unsafe UnsafeRawBufferPointer(
                        start: host + (page + index) * pageLength, count: pageLength)
                    guard unsafe !isZero(bytes) else { continue }
                    try unsafe body(firstNumber + UInt64(page + index), bytes)
                }
                page += window
            }
        }
    }

    /// Makes all of RAM zero; ROM stays.
    public func clear() throws(GuestError) {
        let roms = regions.filter(\.isReadOnly)
        var pages: [GuestPhysicalAddress] = []
        unsafe forEachNonZeroPage { number, _ in
            let address = GuestPhysicalAddress(number * RAMLayout.pageLength)
            let isROM = roms.contains {
                address >= $0.base && address.rawValue - $0.base.rawValue < $0.lengthInBytes
            }
            if !isROM { pages.append(address) }
        }
        let zeros = ArraySlice(repeating: UInt8(0), count: Int(RAMLayout.pageLength))
        for address in pages { try write(address, zeros) }
    }
}

/// Whether there is nothing but zeroes.
func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
    // The first byte zero, and all equal to themselves shifted by one: then every byte is.
    // SAFETY: both ranges lie inside of `bytes`; overlap is fine for memcmp, which only reads.
    guard let start = bytes.baseAddress, bytes.count > 0 else { return true }
    return unsafe start.load(as: UInt8.self) == 0 && memcmp(start, start + 1, bytes.count - 1) == 0
}

/// Whether there is nothing but zeroes.
func isZero(_ bytes: ArraySlice<UInt8>) -> Bool {
    // SAFETY: the buffer is looked at only inside of the closure.
    unsafe bytes.withUnsafeBytes { unsafe isZero($0) }
}

/// A window on /proc/self/pagemap (Linux Documentation/admin-guide/mm/pagemap.rst): one 64-bit
/// word a page, bit 63 present, bit 62 swapped out.
private struct PageResidency: ~Copyable {
    /// Pages per read.
    static let windowLength = 8192

    private let descriptor: Int32
    private var words = [UInt64](repeating: 0, count: windowLength)
    private var isKnown = false

    init() {
        // SAFETY: a constant path; the descriptor is checked before use and closed in deinit.
        descriptor = unsafe open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
    }

    deinit {
        if descriptor >= 0 { close(descriptor) }
    }

    /// Looks at `pageCount` (at most ``windowLength``) pages from `host` on.
    mutating func load(_ host: UnsafeMutableRawPointer, pageCount: Int) {
        isKnown = false
        guard descriptor >= 0 else { return }
        let offset = off_t(Int(bitPattern: host) / 4096 * 8)
        let wanted = pageCount * 8
        let file = descriptor
        isKnown = unsafe words.withUnsafeMutableBytes { buffer in
            var done = 0
            while done < wanted {
                // SAFETY: the range done..<wanted lies inside of the buffer of windowLength words.
                let count = unsafe pread(
                    file, buffer.baseAddress?.advanced(by: done), wanted - done,
                    offset + off_t(done))
                if count < 0 && errno == EINTR { continue }
                if count <= 0 { return false }
                done += count
            }
            return true
        }
    }

    /// Whether the page may hold something; true when that is not known.
    func mayHoldData(_ index: Int) -> Bool { !isKnown || words[index] >> 62 != 0 }
}
