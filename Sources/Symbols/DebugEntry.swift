internal import CElf

/// An entry of debug information (a DIE), as libdw hands it out.
///
/// It points into memory of the libdw handle that it came from. ``DebugInformation`` alone makes
/// entries, keeps them to itself, and keeps the handle open for as long as it lives: that is what
/// every SAFETY line here stands on.
@safe struct DebugEntry {
    private var die: Dwarf_Die

    /// A tag of DWARF: `DW_TAG_*`.
    typealias Tag = Int

    /// The entry at an offset in `.debug_info`; nil where there is none.
    init?(at offset: UInt64, in dwarf: OpaquePointer) {
        // SAFETY: the caller's handle is open; `die` is a local that the call fills.
        unsafe die = unsafe Dwarf_Die()
        guard unsafe dwarf_offdie(dwarf, offset, &die) != nil else { return nil }
    }

    private init(_ die: Dwarf_Die) { unsafe self.die = unsafe die }

    /// Its tag.
    var tag: Tag {
        var die = unsafe self.die
        // SAFETY: libdw filled the entry.
        return Int(unsafe dwarf_tag(&die))
    }

    /// Its offset in `.debug_info`.
    var offset: UInt64 {
        var die = unsafe self.die
        // SAFETY: libdw filled the entry.
        return unsafe dwarf_dieoffset(&die)
    }

    /// What reading a neighbour gives.
    enum Neighbour {
        case entry(DebugEntry)
        case none
        case damaged
    }

    /// The first entry inside this one.
    var firstChild: Neighbour {
        var die = unsafe self.die
        var result = unsafe Dwarf_Die()
        // SAFETY: libdw filled the entry; `result` is a local.
        return unsafe Self.neighbour(dwarf_child(&die, &result), result)
    }

    /// The entry after this one in the same parent.
    var sibling: Neighbour {
        var die = unsafe self.die
        var result = unsafe Dwarf_Die()
        // SAFETY: libdw filled the entry; `result` is a local.
        return unsafe Self.neighbour(dwarf_siblingof(&die, &result), result)
    }

    private static func neighbour(_ status: Int32, _ die: Dwarf_Die) -> Neighbour {
        status == 0 ? .entry(unsafe DebugEntry(die)) : status > 0 ? .none : .damaged
    }

    /// Goes through the entry's address ranges until `body` returns false.
    ///
    /// - Returns: whether they could be read.
    func forEachRange(_ body: (_ low: UInt64, _ high: UInt64) -> Bool) -> Bool {
        var die = unsafe self.die
        var base: Dwarf_Addr = 0
        var offset = 0
        while true {
            var low: Dwarf_Addr = 0
            var high: Dwarf_Addr = 0
            // SAFETY: libdw filled the entry; the rest are locals that it fills.
            offset = unsafe dwarf_ranges(&die, offset, &base, &low, &high)
            if offset <= 0 { return offset == 0 }
            if !body(low, high) { return true }
        }
    }

    /// A string attribute, of the entry or of the one it refers to as its origin.
    func string(_ name: Int) -> String? {
        var die = unsafe self.die
        var attribute = unsafe Dwarf_Attribute()
        // SAFETY: libdw filled the entry and fills the attribute; the string is libdw's, which
        // refuses those that do not end within their section.
        guard unsafe dwarf_attr_integrate(&die, UInt32(name), &attribute) != nil,
            let text = unsafe dwarf_formstring(&attribute)
        else { return nil }
        return unsafe String(cString: text)
    }

    /// An unsigned attribute of the entry itself.
    func number(_ name: Int) -> UInt64? {
        var die = unsafe self.die
        var attribute = unsafe Dwarf_Attribute()
        var value: Dwarf_Word = 0
        // SAFETY: libdw filled the entry; attribute and value are locals that it fills.
        guard unsafe dwarf_attr(&die, UInt32(name), &attribute) != nil,
            unsafe dwarf_formudata(&attribute, &value) == 0
        else { return nil }
        return value
    }

    /// The line table of the unit that this entry is the root of.
    var lineTable: LineTable? {
        var die = unsafe self.die
        var lines: OpaquePointer?
        var count = 0
        // SAFETY: libdw filled the entry; the table it gives lives as long as its handle.
        guard unsafe dwarf_getsrclines(&die, &lines, &count) == 0, let lines = unsafe lines else {
            return nil
        }
        return unsafe LineTable(lines: lines, count: count)
    }

    /// The name of a file in the table of the unit that this entry is the root of.
    func sourceFile(_ index: UInt64) -> String? {
        var die = unsafe self.die
        var files: OpaquePointer?
        var count = 0
        // SAFETY: libdw filled the entry; the table and its strings live as long as its handle,
        // and the index is within it.
        guard unsafe dwarf_getsrcfiles(&die, &files, &count) == 0, index < UInt64(count),
            let text = unsafe dwarf_filesrc(files, Int(index), nil, nil)
        else { return nil }
        return unsafe String(cString: text)
    }
}

/// A unit's line table: rows in ascending order of address. See ``DebugEntry`` for what keeps it
/// alive.
@safe struct LineTable {
    private let lines: OpaquePointer
    private let count: Int

    init(lines: OpaquePointer, count: Int) {
        unsafe self.lines = unsafe lines
        self.count = count
    }

    /// Where the code at an address was written: the last row at or below it, unless that one
    /// ends a sequence.
    func place(of address: UInt64) -> (file: String?, line: Int?, column: Int?)? {
        var low = 0
        var high = count
        while low < high {
            let middle = (low + high) / 2
            if rowAddress(middle) <= address { low = middle + 1 } else { high = middle }
        }
        // SAFETY: the index is within the table, whose rows live as long as it does; the other
        // arguments are locals.
        guard low > 0, let row = unsafe dwarf_onesrcline(lines, low - 1) else { return nil }
        var endsSequence = false
        guard unsafe dwarf_lineendsequence(row, &endsSequence) == 0, !endsSequence else {
            return nil
        }
        var line: Int32 = 0
        var column: Int32 = 0
        _ = unsafe dwarf_lineno(row, &line)
        _ = unsafe dwarf_linecol(row, &column)
        let text = unsafe dwarf_linesrc(row, nil, nil)
        let file: String? =
            if let text = unsafe text { unsafe String(cString: text) } else { nil }
        return (file, line > 0 ? Int(line) : nil, column > 0 ? Int(column) : nil)
    }

    private func rowAddress(_ index: Int) -> UInt64 {
        var address: Dwarf_Addr = 0
        // SAFETY: the index is within the table; a row that is null gives an error, and zero.
        _ = unsafe dwarf_lineaddr(dwarf_onesrcline(lines, index), &address)
        return address
    }
}
