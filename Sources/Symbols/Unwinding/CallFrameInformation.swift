internal import CElf

/// The call frame information of one image: `.debug_frame` (DWARF 5, 6.4) and `.eh_frame` (Linux
/// Standard Base core, 10.6), found once and read where it is asked for.
///
/// libelf finds the sections and unpacks compressed ones; what is in them is read here, since all
/// of it comes from the guest.
struct CallFrameInformation {
    /// The rules of an address, and what is needed to follow them.
    struct Found {
        var rules: CallFrameRules
        var machine: CallFrameMachine
        /// The DWARF number of the return address.
        var returnAddress: Int
        /// Whether what is found is interrupted code, and not a caller.
        var isSignalFrame: Bool
        /// The section that expressions are in.
        var bytes: [UInt8]
    }

    private struct Function {
        var start: UInt64
        var section: Int
        var common: Int
        var instructions: Range<Int>
    }

    let machine: CallFrameMachine
    private var sections: [CallFrameSection] = []
    private var commons: [CallFrameCommon] = []
    private var functions: IntervalIndex<Function>
    /// The first thing that could not be read.
    private(set) var damage: String?

    /// Reads what a file has; nil where it has none, or is for another machine.
    init?(_ file: ELFFile) {
        guard let machine = file.callFrameMachine else { return nil }
        self.machine = machine
        functions = IntervalIndex([])
        var found: [IntervalIndex<Function>.Interval] = []
        for (name, isExceptionData) in [(".debug_frame", false), (".eh_frame", true)] {
            guard let (address, bytes) = file.contents(ofSection: name) else { continue }
            var section = CallFrameSection(
                name: name, bytes: bytes, address: address, isExceptionData: isExceptionData,
                machine: machine)
            let first = commons.count
            let entries = section.entries()
            commons += section.commons
            for entry in entries {
                let (high, overflow) = entry.start.addingReportingOverflow(entry.length)
                // Linkers put zero, or ones, in place of code that they left out.
                guard !overflow, entry.start != 0 else { continue }
                found.append(
                    .init(
                        low: entry.start, high: high,
                        value: Function(
                            start: entry.start, section: sections.count,
                            common: first + entry.common, instructions: entry.instructions)))
            }
            damage = damage ?? section.damage
            sections.append(section)
        }
        if found.isEmpty, damage == nil { return nil }
        functions = IntervalIndex(found)
    }

    /// What is said of an address as linked; nil where nothing is, or it is damaged.
    func rules(at address: UInt64) -> Found? {
        var best: (start: UInt64, function: Function)?
        functions.forEach(holding: address) { interval in
            // Of several, the one that starts last is the nearest; of equals the first section's.
            if best.map({ interval.low > $0.start }) ?? true
                || best?.start == interval.low && interval.value.section == 0
            {
                best = (interval.low, interval.value)
            }
        }
        guard let function = best?.function else { return nil }
        let common = commons[function.common]
        let bytes = sections[function.section].bytes
        var program = CallFrameProgram(
            common, machine: machine, start: function.start, address: address)
        guard let rules = program.run(function.instructions, in: bytes) else { return nil }
        return Found(
            rules: rules, machine: machine, returnAddress: common.returnAddress,
            isSignalFrame: common.isSignalFrame, bytes: bytes)
    }
}

/// What the entries of several functions have in common (a CIE).
struct CallFrameCommon {
    var codeAlignment: UInt64
    var dataAlignment: Int64
    /// The DWARF number of the return address; one that is in the rules.
    var returnAddress: Int
    var isSignalFrame = false
    /// Whether entries have augmentation data, whose length comes first.
    var hasAugmentationData = false
    /// How addresses are written.
    var encoding: CallFramePointer
    /// Offsets of the instructions in the section.
    var instructions: Range<Int>
}

/// How addresses in a section are written (LSB core, 10.5.1: DW_EH_PE).
struct CallFramePointer {
    /// The encoding; 0 for an address as the machine has it.
    var encoding: UInt8 = 0
    var wordSize: Int
    /// The address of the section, which relative addresses count from.
    var sectionAddress: UInt64

    /// Reads an address; nil where the encoding is one that is not used in images we can place:
    /// relative to a table, or indirect.
    func read(_ reader: inout CallFrameReader) -> UInt64? {
        let place = sectionAddress &+ UInt64(reader.offset)
        guard let value = number(&reader), encoding & 0x80 == 0 else { return nil }
        switch Int32(encoding & 0x70) {
        case Int32(DW_EH_PE_absptr): return truncated(value)
        case Int32(DW_EH_PE_pcrel): return truncated(place &+ value)
        default: return nil
        }
    }

    /// Reads a length, which is written like an address but never relative.
    func readLength(_ reader: inout CallFrameReader) -> UInt64? { number(&reader) }

    private func truncated(_ address: UInt64) -> UInt64 {
        wordSize == 8 ? address : address & 0xFFFF_FFFF
    }

    private func number(_ reader: inout CallFrameReader) -> UInt64? {
        switch Int32(encoding & 0x0F) {
        case Int32(DW_EH_PE_absptr): reader.unsigned(wordSize)
        case Int32(DW_EH_PE_uleb128): reader.uleb()
        case Int32(DW_EH_PE_udata2): reader.unsigned(2)
        case Int32(DW_EH_PE_udata4): reader.unsigned(4)
        case Int32(DW_EH_PE_udata8): reader.unsigned(8)
        case Int32(DW_EH_PE_sleb128): reader.sleb().map(UInt64.init(bitPattern:))
        case Int32(DW_EH_PE_sdata2): reader.signed(2).map(UInt64.init(bitPattern:))
        case Int32(DW_EH_PE_sdata4): reader.signed(4).map(UInt64.init(bitPattern:))
        case Int32(DW_EH_PE_sdata8): reader.signed(8).map(UInt64.init(bitPattern:))
        default: nil
        }
    }
}
