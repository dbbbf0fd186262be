/// The symbols and lines of one file, and where in the guest what it describes stands.
///
/// Addresses in the file are *linked* addresses. The image stands at linked address + bias; and,
/// where its program headers give physical addresses that differ, code that runs before paging is
/// on is found at those as well.
public final class SymbolImage {
    /// What people are shown: the file's name.
    public let name: String
    /// What is added to a linked address to get the one in the guest, modulo 2^64.
    public let bias: UInt64
    /// The NT_GNU_BUILD_ID of the file; nil where it has none.
    public let buildID: [UInt8]?
    /// The file's symbols, at linked addresses; empty where it is stripped.
    public let symbols: SymbolTable
    /// The .gnu_debuglink of the file: where its debug information went.
    let debugLink: (fileName: String, checksum: UInt32)?
    /// libdw's text for why there are no lines at all, though the file has some.
    private let unusableLines: String?

    private let lines: DebugInformation?
    /// The file, for what is read only when it is asked for; nil for a text of symbols.
    private let file: ELFFile?
    /// What ``callFrames`` read, once it did.
    private var readCallFrames: CallFrameInformation??
    /// Physical ranges that differ from the linked ones, with what leads from them to those.
    private let physicalRanges: [(range: Range<UInt64>, toLinked: UInt64)]

    /// Reads an ELF file.
    ///
    /// - Parameters:
    ///   - bytes: the whole file, unpacked.
    ///   - name: what messages call it.
    ///   - bias: what is added to linked addresses.
    /// - Throws: ``SymbolError`` where it is no ELF file or ends early. Debug information that is
    ///   damaged is a warning.
    public convenience init(
        elf bytes: [UInt8], name: String, bias: UInt64 = 0
    ) throws(SymbolError) {
        try self.init(elf: bytes, name: name, bias: bias, followsLinks: false)
    }

    /// Reads an ELF file; `followsLinks` as in ``DebugInformation/open(_:followsLinks:)``.
    init(
        elf bytes: [UInt8], name: String, bias: UInt64, followsLinks: Bool
    ) throws(SymbolError) {
        let file = try ELFFile(bytes, name: name)
        self.file = file
        self.name = name
        self.bias = bias
        buildID = file.buildID
        debugLink = file.debugLink
        symbols = try file.symbolTable() ?? SymbolTable.empty
        physicalRanges = file.segments().compactMap { segment in
            let (end, overflow) = segment.physicalAddress.addingReportingOverflow(
                segment.sizeInMemory)
            if overflow || segment.physicalAddress == segment.virtualAddress { return nil }
            return (
                segment.physicalAddress..<end,
                segment.virtualAddress &- segment.physicalAddress
            )
        }
        switch DebugInformation.open(file, followsLinks: followsLinks) {
        case .information(let information): (lines, unusableLines) = (information, nil)
        case .none: (lines, unusableLines) = (nil, nil)
        case .damaged(let detail): (lines, unusableLines) = (nil, detail)
        }
    }

    /// Reads a text of symbols: System.map, /proc/kallsyms, or what `nm` prints.
    ///
    /// - Throws: ``SymbolError`` where a line is no symbol, or there is none.
    public init(map bytes: [UInt8], name: String, bias: UInt64 = 0) throws(SymbolError) {
        self.name = name
        self.bias = bias
        buildID = nil
        debugLink = nil
        symbols = try SymbolMap.read(bytes, file: name)
        physicalRanges = []
        lines = nil
        file = nil
        unusableLines = nil
    }

    /// Reads a file, which is recognised by its content.
    ///
    /// - Throws: ``SymbolError`` where it cannot be read, is neither kind, or has no symbols.
    public convenience init(
        contentsOf path: String, bias: UInt64 = 0
    ) throws(SymbolError) {
        let bytes = try readFile(path)
        if ELFFile.isELF(bytes) {
            try self.init(elf: bytes, name: path, bias: bias, followsLinks: true)
            if symbols.isEmpty, !hasLines { throw .noSymbols(file: path) }
        } else if SymbolMap.isMap(bytes) {
            try self.init(map: bytes, name: path, bias: bias)
        } else {
            throw .notELF(file: path)
        }
    }

    /// Whether the file has line numbers.
    public var hasLines: Bool { lines != nil }

    /// What should be known about the file: at most one warning of damaged lines and one of damaged
    /// frames, which may come when an address is looked up or a stack unwound.
    public var warnings: [SymbolWarning] {
        var warnings: [SymbolWarning] = []
        if let detail = unusableLines ?? lines?.damage {
            warnings.append(.damagedDebugInformation(image: name, detail: detail))
        }
        if let detail = readCallFrames??.damage {
            warnings.append(.damagedCallFrames(image: name, detail: detail))
        }
        return warnings
    }

    /// How to find callers; read when first asked for, since most sessions never look at a stack.
    var callFrames: CallFrameInformation? {
        if let known = readCallFrames { return known }
        let found = file.flatMap(CallFrameInformation.init)
        readCallFrames = .some(found)
        return found
    }

    /// How an address in the guest is looked up in an image.
    enum Placement: CaseIterable {
        /// At linked address + bias.
        case linked
        /// At the physical address that the program headers give.
        case physical
    }

    /// The linked address for one in the guest; nil where the image is not placed so.
    func linkedAddress(of address: UInt64, _ placement: Placement) -> UInt64? {
        switch placement {
        case .linked: return address &- bias
        case .physical:
            return physicalRanges.first { $0.range.contains(address) }.map {
                address &+ $0.toLinked
            }
        }
    }

    /// The frames of a linked address, the innermost first; see ``DebugInformation``.
    func frames(at linked: UInt64) -> [SourceFrame] {
        lines?.frames(at: linked) ?? []
    }

    /// Where the function at a linked address starts, as far as the debug information says.
    func functionStart(at linked: UInt64) -> UInt64? { lines?.functionStart(at: linked) }
}

extension SymbolTable {
    /// A table without symbols.
    static var empty: SymbolTable {
        SymbolTable([], sections: [], lastReach: 0) { _, _ in false }
    }
}
