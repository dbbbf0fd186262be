internal import CElf

/// Lines and inlined functions of one image, read by libdw from DWARF 2 to 5.
///
/// Units are found once; what is in a unit is read when an address in it is first asked for.
/// Damage costs the lines it hits and is told once; amounts of work are bounded by the file's
/// size, since offsets in a damaged file can lead in circles.
@safe final class DebugInformation {
    private let file: ELFFile
    private let dwarf: OpaquePointer
    private var units: [Unit] = []
    private var unitsByAddress = IntervalIndex<Int>([])
    /// libdw's text for the first thing that could not be read.
    private(set) var damage: String?
    /// How many more entries and ranges may be looked at in the task at hand.
    private var budget = 0

    /// Deeper nesting is damage: compilers nest scopes tens deep, and the walk is recursive.
    private static let deepestNesting = 256

    private typealias Functions = IntervalIndex<DebugEntry>

    /// A compilation unit.
    private struct Unit {
        var root: DebugEntry
        var functions: Functions?
    }

    /// What opening gives.
    enum Opened {
        case information(DebugInformation)
        case none
        case damaged(String)
    }

    /// Opens the debug information of a file.
    ///
    /// Debug information may be shared with another file, which libdw opens by the name that
    /// .gnu_debugaltlink has (dwz makes such files). A guest's image must not make us open what
    /// it names; a file that a person installed or named may.
    static func open(_ file: ELFFile, followsLinks: Bool) -> Opened {
        let dwarf = unsafe file.withHandle { elf in
            // SAFETY: the handle is open, and `information` keeps its owner alive.
            unsafe dwarf_begin_elf(elf, DWARF_C_READ, nil)
        }
        guard let dwarf = unsafe dwarf else {
            // Having no debug information is an error to libdw, whose number is not public.
            let text = lastError()
            return text.hasPrefix("no DWARF") ? .none : .damaged(text)
        }
        let information = unsafe DebugInformation(file, dwarf)
        if !followsLinks, information.isShared {
            return .damaged("it is shared with another file; give that image with --symbols")
        }
        information.findUnits()
        if information.units.isEmpty, let damage = information.damage { return .damaged(damage) }
        return information.units.isEmpty ? .none : .information(information)
    }

    private init(_ file: ELFFile, _ dwarf: OpaquePointer) {
        self.file = file
        unsafe self.dwarf = unsafe dwarf
    }

    deinit {
        // SAFETY: open since `open`; the file it reads is still alive here.
        unsafe dwarf_end(dwarf)
    }

    /// Whether the file has a .gnu_debugaltlink, readable or not.
    private var isShared: Bool {
        var name: UnsafePointer<CChar>?
        var identity: UnsafeRawPointer?
        // SAFETY: the handle is open; the results are locals that are not read.
        return unsafe dwelf_dwarf_gnu_debugaltlink(dwarf, &name, &identity) != 0
    }

    private static func lastError() -> String {
        // SAFETY: the texts of libdw's errors are static; null stands for no error.
        guard let text = unsafe dwarf_errmsg(-1) else { return "unknown error" }
        return unsafe String(cString: text)
    }

    private func note(_ what: String) {
        if damage == nil { damage = "\(what): \(Self.lastError())" }
    }

    private func replenish() { budget = max(4096, file.count) }

    private func spend() -> Bool {
        budget -= 1
        if budget < 0, damage == nil { damage = "offsets that lead in circles" }
        return budget >= 0
    }

    // MARK: What is in the file

    private func findUnits() {
        replenish()
        var intervals: [IntervalIndex<Int>.Interval] = []
        var offset: UInt64 = 0
        while spend() {
            var next: Dwarf_Off = 0
            var headerSize = 0
            // SAFETY: the handle is open; the results are locals, null where not wanted.
            let status = unsafe dwarf_nextcu(dwarf, offset, &next, &headerSize, nil, nil, nil)
            if status < 0 { note("unit at offset \(hexadecimal(offset))") }
            if status != 0 || next <= offset { break }
            if let root = unsafe DebugEntry(at: offset &+ UInt64(headerSize), in: dwarf) {
                if isCompilation(root) { add(root, to: &intervals) }
            } else {
                note("unit at offset \(hexadecimal(offset))")
            }
            offset = next
        }
        unitsByAddress = IntervalIndex(intervals)
    }

    private func isCompilation(_ entry: DebugEntry) -> Bool {
        [DW_TAG_compile_unit, DW_TAG_partial_unit, DW_TAG_skeleton_unit].contains(entry.tag)
    }

    private func add(_ root: DebugEntry, to intervals: inout [IntervalIndex<Int>.Interval]) {
        var unit = Unit(root: root)
        var ranges = ranges(of: root)
        if ranges.isEmpty {
            // Some compilers leave the unit's own ranges out: take its functions'.
            let functions = functions(in: root)
            ranges = functions.map { $0.low..<$0.high }
            unit.functions = Functions(functions)
        }
        for range in ranges {
            intervals.append(
                .init(low: range.lowerBound, high: range.upperBound, value: units.count))
        }
        units.append(unit)
    }

    private func ranges(of entry: DebugEntry) -> [Range<UInt64>] {
        var ranges: [Range<UInt64>] = []
        let isReadable = entry.forEachRange { low, high in
            // Linkers put all ones in place of code that they left out.
            if low < high, low < UInt64.max - 1 { ranges.append(low..<high) }
            return spend()
        }
        if !isReadable { note("address ranges") }
        return ranges
    }

    private func forEachChild(of entry: DebugEntry, _ body: (DebugEntry) -> Void) {
        var next = entry.firstChild
        while case .entry(let child) = next, spend() {
            body(child)
            next = child.sibling
        }
        if case .damaged = next { note("entries") }
    }

    /// The functions of a unit that have code of their own, with their ranges.
    private func functions(in root: DebugEntry) -> [Functions.Interval] {
        var found: [Functions.Interval] = []
        forEachChild(of: root) { collectFunctions($0, depth: 0, into: &found) }
        return found
    }

    private func collectFunctions(
        _ entry: DebugEntry, depth: Int, into found: inout [Functions.Interval]
    ) {
        guard depth < Self.deepestNesting else { return }
        let tag = entry.tag
        if tag == DW_TAG_subprogram {
            for range in ranges(of: entry) {
                found.append(.init(low: range.lowerBound, high: range.upperBound, value: entry))
            }
        }
        // Functions stand in namespaces, modules, types and other functions.
        switch tag {
        case DW_TAG_subprogram, DW_TAG_namespace, DW_TAG_module, DW_TAG_class_type,
            DW_TAG_structure_type, DW_TAG_union_type, DW_TAG_enumeration_type,
            DW_TAG_interface_type, DW_TAG_lexical_block:
            forEachChild(of: entry) { collectFunctions($0, depth: depth + 1, into: &found) }
        default: break
        }
    }

    // MARK: What is at an address

    /// The frames of an address as linked, the innermost first; none where no unit has it. The
    /// last frame is the function itself, those before it were inlined.
    func frames(at address: UInt64) -> [SourceFrame] {
        guard let unit = unit(at: address) else { return [] }
        let root = units[unit].root
        let directory = root.string(Int(DW_AT_comp_dir))
        let place = root.lineTable?.place(of: address)
        let chain = inlinedChain(at: address, in: unit)
        var frame = SourceFrame(
            linkageName: nil,
            file: place?.file.map { SourcePath.normalized($0, directory: directory) },
            line: place?.line, column: place?.column,
            isInlined: false)
        if chain.isEmpty { return place == nil ? [] : [frame] }
        var frames: [SourceFrame] = []
        for (level, entry) in chain.enumerated() {
            frame.linkageName = name(of: entry)
            frame.isInlined = level + 1 < chain.count
            frames.append(frame)
            frame = callSite(of: entry, root: root, directory: directory)
        }
        return frames
    }

    /// Where the function at an address starts, as linked.
    func functionStart(at address: UInt64) -> UInt64? {
        guard let unit = unit(at: address) else { return nil }
        var start: UInt64?
        functions(of: unit).forEach(holding: address) { start = start ?? $0.low }
        return start
    }

    /// The unit of an address; of those that claim it, the first in the file.
    private func unit(at address: UInt64) -> Int? {
        var first: Int?
        unitsByAddress.forEach(holding: address) { first = min(first ?? .max, $0.value) }
        return first
    }

    private func functions(of unit: Int) -> Functions {
        if let functions = units[unit].functions { return functions }
        replenish()
        let functions = Functions(functions(in: units[unit].root))
        units[unit].functions = functions
        return functions
    }

    /// The scopes of an address that are functions, the innermost first: inlined ones, and last
    /// the function that the code belongs to.
    private func inlinedChain(at address: UInt64, in unit: Int) -> [DebugEntry] {
        // Of functions that claim the same address, the last in the file has it: nested
        // functions follow those they are in.
        var best: (entry: DebugEntry, offset: UInt64)?
        functions(of: unit).forEach(holding: address) { interval in
            let offset = interval.value.offset
            if best.map({ $0.offset < offset }) ?? true { best = (interval.value, offset) }
        }
        guard let function = best?.entry else { return [] }
        replenish()
        var chain = [function]
        var innermost = chain
        forEachChild(of: function) {
            descend($0, address, depth: 0, chain: &chain, innermost: &innermost)
        }
        return innermost.reversed()
    }

    private func descend(
        _ entry: DebugEntry, _ address: UInt64, depth: Int, chain: inout [DebugEntry],
        innermost: inout [DebugEntry]
    ) {
        guard depth < Self.deepestNesting else { return }
        switch entry.tag {
        case DW_TAG_inlined_subroutine:
            guard ranges(of: entry).contains(where: { $0.contains(address) }) else { return }
            chain.append(entry)
            innermost = chain
            forEachChild(of: entry) {
                descend($0, address, depth: depth + 1, chain: &chain, innermost: &innermost)
            }
            chain.removeLast()
        case DW_TAG_lexical_block, DW_TAG_try_block, DW_TAG_catch_block:
            forEachChild(of: entry) {
                descend($0, address, depth: depth + 1, chain: &chain, innermost: &innermost)
            }
        default: return
        }
    }

    private func name(of entry: DebugEntry) -> String? {
        entry.string(Int(DW_AT_linkage_name)) ?? entry.string(Int(DW_AT_MIPS_linkage_name))
            ?? entry.string(Int(DW_AT_name))
    }

    private func callSite(
        of entry: DebugEntry, root: DebugEntry, directory: String?
    ) -> SourceFrame {
        func position(_ attribute: Int) -> Int? {
            entry.number(attribute).flatMap { $0 == 0 ? nil : Int(exactly: $0) }
        }
        return SourceFrame(
            linkageName: nil,
            file: entry.number(Int(DW_AT_call_file)).flatMap(root.sourceFile).map {
                SourcePath.normalized($0, directory: directory)
            },
            line: position(Int(DW_AT_call_line)), column: position(Int(DW_AT_call_column)),
            isInlined: false)
    }
}
