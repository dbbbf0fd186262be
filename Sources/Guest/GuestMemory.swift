import Glibc
public import Machine

/// The guest's physical memory: RAM and, for firmware, a ROM below 4 GiB. Owns the mappings.
///
/// RAM is one private anonymous mapping without reservation, so that a page costs nothing until it
/// is touched; never merged or made huge by the host, since both change when pages fault. A guest
/// can write to it whenever its vCPU runs: bytes read twice need not be equal.
///
/// Not safe to use from two threads but for reading ``regions``.
@safe
public struct GuestMemory: ~Copyable {
    /// A piece of guest-physical memory in one piece on the host; one KVM memory slot.
    @safe
    public struct Region: Sendable {
        /// The first guest-physical address; a multiple of 4 KiB.
        public var base: GuestPhysicalAddress
        /// A multiple of 4 KiB.
        public var lengthInBytes: UInt64
        // SAFETY: an address handed between threads; whoever follows it holds the owner.
        /// Where it is on the host; lives as long as the memory it came from.
        public nonisolated(unsafe) var host: UnsafeMutableRawPointer
        /// ROM: to be mapped with KVM_MEM_READONLY, so that a guest's write is an MMIO exit.
        public var isReadOnly: Bool
        /// `ram`, `ram-high` or `rom`.
        public var name: String
    }

    /// Where RAM is.
    public let layout: RAMLayout
    /// The pieces in ascending order of guest-physical address: RAM below 3 GiB, ROM, RAM from
    /// 4 GiB on.
    public let regions: [Region]
    /// How the pages of all regions are numbered without gaps.
    public let pageSlots: PageSlots
    /// The mappings to give back: (address, length).
    private let mappings: [(UnsafeMutableRawPointer, Int)]
    /// Pages that were written through this value; see ``moveWrittenPages(into:)``.
    private let written: UnsafeMutablePointer<UInt64>

    /// Maps zeroed memory: RAM as `layout` says and a ROM of `romLengthInBytes` that ends at 4 GiB.
    ///
    /// The ROM's length is a multiple of 4 KiB up to 16 MiB, or 0 for none. Throws
    /// ``GuestError/Kind/noMemory`` where mmap(2) refuses.
    public init(layout: RAMLayout, romLengthInBytes: UInt64 = 0) throws(GuestError) {
        guard romLengthInBytes <= 16 << 20, romLengthInBytes % RAMLayout.pageLength == 0 else {
            throw GuestError(
                .badOption, "ROM size",
                "\(romLengthInBytes) bytes is not a multiple of 4 KiB "
                    + "up to 16 MiB")
        }
        // SAFETY: both lengths are checked above and by RAMLayout, so they fit an Int.
        let ram = try unsafe Self.map(Int(layout.lengthInBytes))
        var mappings = unsafe [(ram, Int(layout.lengthInBytes))]
        var regions = unsafe [
            Region(
                base: GuestPhysicalAddress(0), lengthInBytes: layout.lowLength, host: ram,
                isReadOnly: false, name: "ram")
        ]
        if romLengthInBytes > 0 {
            let rom: UnsafeMutableRawPointer
            do {
                unsafe rom = try unsafe Self.map(Int(romLengthInBytes))
            } catch {
                // SAFETY: exactly what was mapped above, and nothing has seen it yet.
                unsafe munmap(ram, Int(layout.lengthInBytes))
                throw error
            }
            unsafe mappings.append((rom, Int(romLengthInBytes)))
            unsafe regions.append(
                Region(
                    base: GuestPhysicalAddress(RAMLayout.holeEnd - romLengthInBytes),
                    lengthInBytes: romLengthInBytes, host: rom, isReadOnly: true, name: "rom"))
        }
        if layout.highLength > 0 {
            unsafe regions.append(
                Region(
                    base: GuestPhysicalAddress(RAMLayout.holeEnd),
                    lengthInBytes: layout.highLength, host: ram + Int(layout.lowLength),
                    isReadOnly: false, name: "ram-high"))
        }
        self.layout = layout
        self.regions = regions
        pageSlots = PageSlots(regions)
        unsafe self.mappings = unsafe mappings
        // SAFETY: as many words as there are page slots; freed in deinit.
        unsafe written = .allocate(capacity: pageSlots.wordCount)
        unsafe written.initialize(repeating: 0, count: pageSlots.wordCount)
    }

    deinit {
        // SAFETY: allocated by init, and freed only here.
        unsafe written.deallocate()
        for index in unsafe 0..<mappings.count {
            // SAFETY: mapped by init with this length, and unmapped only here.
            unsafe munmap(mappings[index].0, mappings[index].1)
        }
    }

    private static func map(_ length: Int) throws(GuestError) -> UnsafeMutableRawPointer {
        // SAFETY: a fresh anonymous mapping; MAP_FAILED is checked before the address is used.
        let address = unsafe mmap(
            nil, length, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let address = unsafe address, unsafe address != MAP_FAILED else {
            throw GuestError(
                .noMemory, "guest memory",
                "the host gave no \(size(UInt64(length))): \(message(of: errno)); "
                    + "ask for less RAM, or see /proc/sys/vm/overcommit_memory")
        }
        // A kernel without KSM or huge pages refuses these, and then does neither anyway.
        // SAFETY: the whole of the mapping made above.
        unsafe madvise(address, length, MADV_UNMERGEABLE)
        unsafe madvise(address, length, MADV_NOHUGEPAGE)
        return unsafe address
    }

    /// Where `count` bytes from `address` on are on the host, or nil unless all of them lie in one
    /// region. The pointer lives as long as this value.
    public func host(_ address: GuestPhysicalAddress, count: Int) -> UnsafeMutableRawPointer? {
        guard count >= 0 else { return nil }
        for region in regions {
            // SAFETY: plain numbers of the region; the pointer stays inside of it by the check.
            let start = region.base.rawValue
            let length = region.lengthInBytes
            guard address.rawValue >= start, address.rawValue - start < length else { continue }
            let offset = address.rawValue - start
            guard UInt64(count) <= length - offset else { return nil }
            return unsafe region.host + Int(offset)
        }
        return nil
    }

    /// Copies guest memory from `address` on into `destination`, across regions that touch.
    ///
    /// Throws ``GuestError/Kind/badAddress``, with nothing copied, unless all of it is memory.
    public func read(
        _ address: GuestPhysicalAddress, into destination: UnsafeMutableRawBufferPointer
    ) throws(GuestError) {
        guard let target = destination.baseAddress, destination.count > 0 else {
            return
        }
        // SAFETY: host() vouches for the source; the destination is the caller's whole buffer.
        guard let source = unsafe host(address, count: destination.count) else {
            throw outside(address, destination.count)
        }
        unsafe target.copyMemory(from: source, byteCount: destination.count)
    }

    /// A copy of `count` bytes from `address` on.
    ///
    /// Throws ``GuestError/Kind/badAddress`` unless all of it is memory.
    public func read(_ address: GuestPhysicalAddress, count: Int) throws(GuestError) -> [UInt8] {
        // SAFETY: host() vouches for `count` readable bytes while this value is borrowed.
        guard count > 0 else { return [] }
        guard let source = unsafe host(address, count: count) else {
            throw outside(address, count)
        }
        return unsafe [UInt8](UnsafeRawBufferPointer(start: source, count: count))
    }

    /// Copies `bytes` into guest memory from `address` on; ROM is written too.
    ///
    /// Throws ``GuestError/Kind/badAddress``, with nothing written, unless all of it is memory.
    public func write(
        _ address: GuestPhysicalAddress, _ bytes: UnsafeRawBufferPointer
    ) throws(GuestError) {
        guard let source = bytes.baseAddress, bytes.count > 0 else { return }
        // SAFETY: host() vouches for the destination; the source is the caller's whole buffer.
        guard let target = unsafe host(address, count: bytes.count) else {
            throw outside(address, bytes.count)
        }
        unsafe target.copyMemory(from: source, byteCount: bytes.count)
        markWritten(address, count: bytes.count)
    }

    /// Copies an array into guest memory from `address` on; ROM is written too.
    ///
    /// Throws ``GuestError/Kind/badAddress``, with nothing written, unless all of it is memory.
    public func write(
        _ address: GuestPhysicalAddress, _ bytes: ArraySlice<UInt8>
    ) throws(GuestError) {
        guard !bytes.isEmpty else { return }
        // SAFETY: host() vouches for `count` writable bytes; the array for its own.
        guard let target = unsafe host(address, count: bytes.count) else {
            throw outside(address, bytes.count)
        }
        unsafe bytes.withUnsafeBytes { source in
            unsafe UnsafeMutableRawBufferPointer(start: target, count: source.count)
                .copyMemory(from: source)
        }
        markWritten(address, count: bytes.count)
    }

    /// Notes a write of this process, which KVM's dirty log does not see; the range lies in one
    /// region.
    public func markWritten(_ address: GuestPhysicalAddress, count: Int) {
        guard count > 0, let first = pageSlots.slot(ofPage: address.rawValue / 4096),
            let last = pageSlots.slot(ofPage: (address.rawValue + UInt64(count) - 1) / 4096)
        else { return }
        for slot in first...max(first, last) {
            // SAFETY: a slot is below 64 times the word count.
            unsafe written[slot / 64] |= 1 << UInt64(slot % 64)
        }
    }

    /// Adds the pages that were written through this value since the last call to a set of page
    /// slots, and forgets them. What the guest's CPU and devices with a pointer of their own write
    /// is not among them.
    ///
    /// - Parameter set: one bit a slot, ``PageSlots/wordCount`` words.
    public func moveWrittenPages(into set: inout [UInt64]) {
        precondition(set.count == pageSlots.wordCount)
        for word in set.indices {
            // SAFETY: there are as many words.
            let bits = unsafe written[word]
            guard bits != 0 else { continue }
            set[word] |= bits
            unsafe written[word] = 0
        }
    }

    private func outside(_ address: GuestPhysicalAddress, _ count: Int) -> GuestError {
        GuestError(
            .badAddress, "guest memory",
            "\(count) bytes at \(hex(address.rawValue)) are not all in \(layout.name) or ROM")
    }
}

/// What an errno value means, as strerror(3) says it.
func message(of number: Int32) -> String {
    // SAFETY: strerror gives a NUL-terminated string that is copied at once.
    guard let text = unsafe strerror(number) else { return "errno \(number)" }
    return unsafe String(cString: text)
}
