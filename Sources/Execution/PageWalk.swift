internal import Disassembly
public import Guest
public import Machine

/// Reads guest memory through the guest's own address translation, as its next instruction would,
/// without side effects: no accessed bit is set and no fault raised (Intel SDM vol. 3, chapter 4).
public enum PageWalk {
    /// The guest-physical address of a linear one, and how many bytes are contiguous from there.
    ///
    /// - Returns: nil where the page tables map nothing, or lie outside of RAM.
    public static func translate(
        _ address: GuestVirtualAddress, system: borrowing SystemRegisters,
        memory: borrowing GuestMemory
    ) -> (address: GuestPhysicalAddress, contiguousBytes: Int)? {
        mapping(of: address, system: system, memory: memory).map {
            ($0.address, $0.contiguousBytes)
        }
    }

    /// How the page tables map a linear address.
    ///
    /// - Returns: nil where they map nothing, or lie outside of RAM.
    static func mapping(
        of address: GuestVirtualAddress, system: borrowing SystemRegisters,
        memory: borrowing GuestMemory
    ) -> PageMapping? {
        let linear = address.rawValue
        let pageOffset = linear & 0xFFF
        guard let form = PagingForm(system) else {
            return PageMapping(
                address: GuestPhysicalAddress(linear & 0xFFFF_FFFF),
                contiguousBytes: Int(0x1000 - pageOffset))
        }
        let entryBytes = form.entrySize
        var table = form.root(system)
        var mapping = PageMapping(address: GuestPhysicalAddress(0), contiguousBytes: 0)
        mapping.isUser = true
        for level in stride(from: form.levels - 1, through: 0, by: -1) {
            let entryAddress = GuestPhysicalAddress(
                table &+ UInt64(form.index(of: linear, level) * entryBytes))
            var entry: UInt64 = 0
            // SAFETY: the host pointer covers `entryBytes`, and the entry has room for 8.
            guard let host = unsafe memory.host(entryAddress, count: entryBytes) else { return nil }
            unsafe withUnsafeMutableBytes(of: &entry) {
                unsafe $0.copyMemory(
                    from: UnsafeRawBufferPointer(start: host, count: entryBytes))
            }
            guard entry & PagingForm.present != 0 else { return nil }
            if !form.isPointerTable(level) {
                if entry & EntryBits.writable == 0 { mapping.isWritable = false }
                if entry & EntryBits.user == 0 { mapping.isUser = false }
                mapping.entries[mapping.entryCount] = (entryAddress, UInt8(entry & 0xFF))
                mapping.entryCount += 1
            }
            guard form.isLeaf(entry, level) else {
                table = entry & form.addressMask
                continue
            }
            let size = UInt64(1) << form.shift(level)
            let offset = linear & (size - 1)
            mapping.address = GuestPhysicalAddress(form.frame(entry, level) | offset)
            mapping.contiguousBytes = Int(size - offset)
            return mapping
        }
        return nil
    }

    /// Whether the code before a linear address ends in a CALL, as before any return address.
    static func isBehindCall(
        _ address: GuestVirtualAddress, _ disassembler: Disassembler,
        system: borrowing SystemRegisters, memory: borrowing GuestMemory
    ) -> Bool {
        let length = Disassembler.longestCall
        let start = GuestVirtualAddress(address.rawValue &- UInt64(length))
        return disassembler.endsInCall(
            read(start, count: length, system: system, memory: memory))
    }

    /// Copies up to `count` bytes from a linear address; fewer where the mapping or RAM ends.
    public static func read(
        _ address: GuestVirtualAddress, count: Int, system: borrowing SystemRegisters,
        memory: borrowing GuestMemory
    ) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(count)
        var at = address.rawValue
        while result.count < count {
            guard
                let place = translate(GuestVirtualAddress(at), system: system, memory: memory)
            else { break }
            let piece = min(count - result.count, place.contiguousBytes, 0x1000 - Int(at & 0xFFF))
            // SAFETY: the host pointer covers `piece` bytes, copied at once.
            guard let host = unsafe memory.host(place.address, count: piece) else { break }
            unsafe result += UnsafeRawBufferPointer(start: host, count: piece)
            at &+= UInt64(piece)
        }
        return result
    }

    /// The linear address of a vector's handler in protected and in 64-bit mode (Intel SDM vol. 3,
    /// 6.11 and 6.14.1), of segments that begin at 0.
    ///
    /// - Returns: nil in real mode, and where the table has no interrupt or trap gate for it.
    static func handler(
        of vector: UInt8, system: borrowing SystemRegisters, memory: borrowing GuestMemory
    ) -> UInt64? {
        guard !system.isRealMode else { return nil }
        let isLong = system[.efer] & ControlBits.longModeActive != 0
        let size = isLong ? 16 : 8
        let offset = UInt64(vector) * UInt64(size)
        guard offset + UInt64(size) - 1 <= UInt64(system.idt.limit) else { return nil }
        let gate = read(
            GuestVirtualAddress(system.idt.base &+ offset), count: size, system: system,
            memory: memory)
        // Present, and of type 6, 7, 14 or 15, of which the first two are of 16 bits.
        guard gate.count == size, gate[5] & 0x86 == 0x86 else { return nil }
        let high = isLong ? [11, 10, 9, 8, 7, 6] : gate[5] & 8 != 0 ? [7, 6] : []
        let bytes = high + [1, 0]
        return bytes.reduce(0) { $0 << 8 | UInt64(gate[$1]) }
    }

    /// As ``Machine/SystemRegisters/linearAddress(ofCode:)``.
    public static func linearRIP(
        _ rip: UInt64, system: borrowing SystemRegisters
    ) -> GuestVirtualAddress {
        system.linearAddress(ofCode: rip)
    }
}

/// How page tables map a linear address: where to, and what may be done there.
struct PageMapping {
    /// Where it is.
    var address: GuestPhysicalAddress
    /// How many bytes are contiguous from there.
    var contiguousBytes: Int
    /// Whether every level lets it be written.
    var isWritable = true
    /// Whether every level lets ring 3 reach it.
    var isUser = false
    /// The entries that led there with their low bytes, the page's own last; without paging none.
    var entries: InlineArray<5, (address: GuestPhysicalAddress, lowByte: UInt8)> = InlineArray(
        repeating: (GuestPhysicalAddress(0), 0))
    /// How many of ``entries`` there are.
    var entryCount = 0

    init(address: GuestPhysicalAddress, contiguousBytes: Int) {
        self.address = address
        self.contiguousBytes = contiguousBytes
    }
}

/// Bits of CR0, CR4 and EFER that translation depends on (Intel SDM vol. 3, 2.5 and 2.2.1).
enum ControlBits {
    static let paging: UInt64 = 1 << 31
    static let writeProtect: UInt64 = 1 << 16
    static let la57: UInt64 = 1 << 12
    static let smap: UInt64 = 1 << 21
    static let protectionKeys: UInt64 = 1 << 22 | 1 << 24
    static let longModeActive: UInt64 = 1 << 10
}

/// Bits of a paging-structure entry (Intel SDM vol. 3, 4.5).
enum EntryBits {
    static let writable: UInt64 = 1 << 1
    static let user: UInt64 = 1 << 2
    static let accessed: UInt8 = 1 << 5
    static let dirty: UInt8 = 1 << 6
}
