/// A segment register with its hidden part, as KVM's `struct kvm_segment` holds it.
public struct Segment: Equatable, Sendable {
    /// Linear address of the segment's first byte.
    public var base: UInt64
    /// Offset of the last byte, in bytes (granularity already applied).
    public var limit: UInt32
    /// The visible part.
    public var selector: UInt16
    /// Descriptor type, 0–15 (Intel SDM vol. 3, 3.4.5.1).
    public var type: UInt8
    /// P: the segment is present.
    public var present: Bool
    /// Descriptor privilege level, 0–3. Of SS, it is the CPL.
    public var dpl: UInt8
    /// D/B: default operation size is 32 bits.
    public var db: Bool
    /// S: a code or data segment (not a system segment).
    public var s: Bool
    /// L: 64-bit code.
    public var l: Bool
    /// G: the limit counts in units of 4 KiB.
    public var g: Bool
    /// AVL: free for system software.
    public var avl: Bool
    /// The segment cannot be used (a null selector was loaded).
    public var unusable: Bool

    /// Makes a segment; the defaults are those of a present, byte-granular real-mode segment.
    public init(
        base: UInt64 = 0, limit: UInt32 = 0xFFFF, selector: UInt16 = 0, type: UInt8 = 3,
        present: Bool = true, dpl: UInt8 = 0, db: Bool = false, s: Bool = true, l: Bool = false,
        g: Bool = false, avl: Bool = false, unusable: Bool = false
    ) {
        self.base = base
        self.limit = limit
        self.selector = selector
        self.type = type
        self.present = present
        self.dpl = dpl
        self.db = db
        self.s = s
        self.l = l
        self.g = g
        self.avl = avl
        self.unusable = unusable
    }
}

/// A descriptor-table register (GDTR, IDTR).
public struct DescriptorTable: Equatable, Sendable {
    /// Linear address of the table.
    public var base: UInt64
    /// Offset of the table's last byte.
    public var limit: UInt16

    /// Makes a table register.
    public init(base: UInt64 = 0, limit: UInt16 = 0) {
        self.base = base
        self.limit = limit
    }
}

/// Segment, descriptor-table and control registers of one vCPU.
///
/// Same layout as KVM's `struct kvm_sregs`: 39 words of 64 bits, 312 bytes, little-endian. The
/// words are what the trace compares and stores; the properties name what is in them. Padding
/// is kept zero so that equal registers are equal words.
public struct SystemRegisters: Sendable {
    /// The number of 64-bit words.
    public static let wordCount = 39
    /// Where the interrupt bitmap begins, which is the last four of them.
    public static let bitmapWord = 35

    /// The registers as KVM lays them out.
    public var words: InlineArray<39, UInt64>

    /// All registers zero. Not a state a CPU can run in.
    public init() { words = InlineArray(repeating: 0) }

    /// A segment register of ``SystemRegisters``; the raw value is its place in `kvm_sregs`.
    public enum SegmentName: Int, CaseIterable, Sendable {
        case cs, ds, es, fs, gs, ss, tr, ldt

        /// The assembler's name.
        public var name: String { String(describing: self) }
    }

    /// A register that takes one whole word; the raw value is the word's index.
    public enum ControlName: Int, CaseIterable, Sendable {
        case cr0 = 28
        case cr2, cr3, cr4, cr8, efer
        case apicBase

        /// The name the manuals use.
        public var name: String { self == .apicBase ? "apic_base" : String(describing: self) }
    }

    /// A segment register with its hidden part.
    public subscript(segment: SegmentName) -> Segment {
        get {
            let at = segment.rawValue * 3
            let middle = words[at + 1]
            let last = words[at + 2]
            func byte(_ word: UInt64, _ index: UInt64) -> UInt8 {
                UInt8(truncatingIfNeeded: word >> (index * 8))
            }
            return Segment(
                base: words[at], limit: UInt32(truncatingIfNeeded: middle),
                selector: UInt16(truncatingIfNeeded: middle >> 32), type: byte(middle, 6),
                present: byte(middle, 7) != 0, dpl: byte(last, 0), db: byte(last, 1) != 0,
                s: byte(last, 2) != 0, l: byte(last, 3) != 0, g: byte(last, 4) != 0,
                avl: byte(last, 5) != 0, unusable: byte(last, 6) != 0)
        }
        set {
            let at = segment.rawValue * 3
            func bit(_ flag: Bool, _ index: UInt64) -> UInt64 { flag ? 1 << (index * 8) : 0 }
            words[at] = newValue.base
            words[at + 1] =
                UInt64(newValue.limit) | UInt64(newValue.selector) << 32
                | UInt64(newValue.type) << 48 | bit(newValue.present, 7)
            words[at + 2] =
                UInt64(newValue.dpl) | bit(newValue.db, 1) | bit(newValue.s, 2)
                | bit(newValue.l, 3) | bit(newValue.g, 4) | bit(newValue.avl, 5)
                | bit(newValue.unusable, 6)
        }
    }

    /// A control register, EFER or the APIC base.
    public subscript(control: ControlName) -> UInt64 {
        get { words[control.rawValue] }
        set { words[control.rawValue] = newValue }
    }

    /// The global descriptor table register.
    public var gdt: DescriptorTable {
        get { table(at: 24) }
        set { setTable(newValue, at: 24) }
    }

    /// The interrupt descriptor table register.
    public var idt: DescriptorTable {
        get { table(at: 26) }
        set { setTable(newValue, at: 26) }
    }

    /// The 256-bit `interrupt_bitmap`: at most one bit set, an injected and not yet delivered
    /// external interrupt.
    public var interruptBitmap: InlineArray<4, UInt64> {
        [words[35], words[36], words[37], words[38]]
    }

    /// The mode of execution that these registers put the CPU in.
    public var mode: CPUMode {
        if self[.cr0] & 1 == 0 { return .real }
        if self[.efer] & (1 << 10) != 0 { return self[.cs].l ? .long : .compatibility }
        return self[.cs].db ? .protected32 : .protected16
    }

    // The next two are inlinable: called through a pointer to the run page at every exit, either
    // would copy all 312 bytes first.

    /// Whether protection is off: CR0.PE clear.
    @inlinable public var isRealMode: Bool { words[28] & 1 == 0 }

    /// Current privilege level, 0–3: the DPL of SS (Intel SDM vol. 3, 5.5).
    @inlinable public var cpl: UInt8 {
        // Byte 0 of the last of SS's three words (``SegmentName``).
        isRealMode ? 0 : UInt8(truncatingIfNeeded: words[5 * 3 + 2]) & 3
    }

    /// The linear address of an offset in the code segment, RIP above all: the offset itself in
    /// 64-bit code; elsewhere CS's base is added, and the sum has 32 bits (Intel SDM vol. 3, 3.3).
    public func linearAddress(ofCode offset: UInt64) -> GuestVirtualAddress {
        mode.linearAddress(ofCode: offset, base: words[SegmentName.cs.rawValue * 3])
    }

    private func table(at index: Int) -> DescriptorTable {
        DescriptorTable(
            base: words[index], limit: UInt16(truncatingIfNeeded: words[index + 1]))
    }

    private mutating func setTable(_ table: DescriptorTable, at index: Int) {
        words[index] = table.base
        words[index + 1] = UInt64(table.limit)
    }

    /// The name of what a word holds, for reports: `cs`, `gdt`, `cr3`, `interrupt_bitmap`.
    public static func nameOfWord(_ index: Int) -> String {
        switch index {
        case 0..<24: SegmentName(rawValue: index / 3)?.name ?? "?"
        case 24, 25: "gdt"
        case 26, 27: "idt"
        case 28..<35: ControlName(rawValue: index)?.name ?? "?"
        default: "interrupt_bitmap"
        }
    }
}

extension SystemRegisters: Equatable {
    /// Whether all words are equal.
    public static func == (a: Self, b: Self) -> Bool {
        for index in 0..<wordCount where a.words[index] != b.words[index] { return false }
        return true
    }
}

/// How the CPU reads instructions; the raw value is the name shown to people.
public enum CPUMode: String, CaseIterable, Sendable {
    /// Real mode: linear = selector * 16 + offset.
    case real
    /// Protected mode, 16-bit code.
    case protected16
    /// Protected mode, 32-bit code.
    case protected32
    /// Long mode, 16- or 32-bit code.
    case compatibility
    /// Long mode, 64-bit code.
    case long

    /// As ``SystemRegisters/linearAddress(ofCode:)``, where mode and CS's base are at hand.
    public func linearAddress(ofCode offset: UInt64, base: UInt64) -> GuestVirtualAddress {
        GuestVirtualAddress(self == .long ? offset : (base &+ offset) & 0xFFFF_FFFF)
    }
}
