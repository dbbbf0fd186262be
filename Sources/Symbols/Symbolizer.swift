public import Machine

/// Turns addresses of instructions into names and places.
///
/// Images are asked in the order they were added. What is found for an address is kept, so that
/// naming a trace costs per distinct address and not per exit. Not for use by two threads.
public final class Symbolizer {
    /// The images, in the order they are asked.
    public private(set) var images: [SymbolImage] = []
    private var ownWarnings: [SymbolWarning] = []
    private var cache: [UInt64: SymbolizedAddress?] = [:]

    /// Makes one that knows no names.
    public init() {}

    /// Whether no image has any symbols or lines.
    public var isEmpty: Bool { images.allSatisfy { $0.symbols.isEmpty && !$0.hasLines } }

    /// What a person should know, in the order it was found; grows as addresses are looked up.
    public var warnings: [SymbolWarning] { ownWarnings + images.flatMap(\.warnings) }

    /// Adds an image, after those that are there.
    public func add(_ image: SymbolImage) {
        images.append(image)
        cache.removeAll()
    }

    /// Adds an ELF image that the guest ran, and where it lacks symbols or lines, the file of
    /// debug information that belongs to it, if the search finds one.
    ///
    /// - Parameters:
    ///   - bytes: the image, unpacked.
    ///   - name: what messages call it.
    ///   - bias: what is added to linked addresses, modulo 2^64.
    ///   - directory: where the image came from, for .gnu_debuglink; nil where nobody knows.
    ///   - search: where to look; nil to look nowhere.
    /// - Throws: ``SymbolError`` as ``SymbolImage/init(elf:name:bias:)``.
    public func addGuestImage(
        elf bytes: [UInt8], name: String, bias: UInt64 = 0, directory: String? = nil,
        search: DebugFileSearch? = DebugFileSearch()
    ) throws(SymbolError) {
        let image = try SymbolImage(elf: bytes, name: name, bias: bias)
        add(image)
        if image.symbols.isEmpty || !image.hasLines,
            let found = search?.find(for: image, directory: directory)
        {
            add(found)
        }
    }

    /// Adds a file that a person named: `FILE` or `FILE@OFFSET`, the offset being added to linked
    /// addresses (decimal, or hexadecimal after `0x`; it may be negative). Warns where its
    /// build-id is another than that of every image so far that has one.
    ///
    /// - Throws: ``SymbolError`` where it cannot be used.
    public func addFile(argument: String) throws(SymbolError) {
        let (path, bias) = try Self.parse(argument: argument)
        let file = try SymbolImage(contentsOf: path, bias: bias)
        if let found = file.buildID {
            let others = images.filter { $0.buildID != nil }
            if let first = others.first, let expected = first.buildID,
                others.allSatisfy({ $0.buildID != found })
            {
                ownWarnings.append(
                    .buildIDDiffers(
                        file: path, found: found, image: first.name, expected: expected))
            }
        }
        add(file)
    }

    /// Takes `FILE[@OFFSET]` apart. A name that has an `@` of its own is taken whole where what
    /// follows the last one does not start like a number.
    static func parse(argument: String) throws(SymbolError) -> (path: String, bias: UInt64) {
        guard let at = argument.lastIndex(of: "@") else { return (argument, 0) }
        var digits = argument[argument.index(after: at)...]
        guard let first = digits.first, first == "-" || first == "+" || first.isWholeNumber else {
            return (argument, 0)
        }
        let isNegative = first == "-"
        if isNegative || first == "+" { digits.removeFirst() }
        let isHexadecimal = digits.lowercased().hasPrefix("0x")
        let number =
            isHexadecimal ? UInt64(digits.dropFirst(2), radix: 16) : UInt64(digits, radix: 10)
        guard let number else { throw .badOffset(argument: argument) }
        return (String(argument[..<at]), isNegative ? 0 &- number : number)
    }

    /// The name and place of an instruction; nil where no image has it.
    ///
    /// Images are first asked at linked address + bias, then at the physical addresses that their
    /// program headers give. The first with a symbol names the function; lines come from the
    /// first that has any, which may be another (a stripped image and its debug file).
    ///
    /// - Parameter address: where the instruction starts: its linear address (in real mode, CS's
    ///   base + RIP).
    public func symbolize(_ address: GuestVirtualAddress) -> SymbolizedAddress? {
        if let known = cache[address.rawValue] { return known }
        var found: SymbolizedAddress?
        for placement in SymbolImage.Placement.allCases where found == nil {
            found = look(up: address.rawValue, placement)
        }
        cache[address.rawValue] = .some(found)
        return found
    }

    private func look(
        up address: UInt64, _ placement: SymbolImage.Placement
    ) -> SymbolizedAddress? {
        var named: (symbol: Symbol, offset: UInt64, image: String)?
        var frames: [SourceFrame] = []
        for image in images {
            guard let linked = image.linkedAddress(of: address, placement) else { continue }
            if named == nil, let (symbol, offset) = image.symbols.symbol(at: linked) {
                named = (symbol, offset, image.name)
            }
            if frames.isEmpty {
                frames = image.frames(at: linked)
                // Without a symbol, the debug information's own name for the function has to do.
                if named == nil, let name = frames.last?.linkageName,
                    let start = image.functionStart(at: linked)
                {
                    return SymbolizedAddress(
                        linkageName: name, function: Demangler.demangled(name),
                        offset: linked &- start, image: image.name, frames: frames)
                }
            }
            if named != nil, !frames.isEmpty { break }
        }
        guard let named else { return nil }
        // The symbol table knows the function's name as the linker left it; debug information may
        // have another, or none.
        if !frames.isEmpty {
            frames[frames.count - 1].linkageName = named.symbol.linkageName
        }
        return SymbolizedAddress(
            linkageName: named.symbol.linkageName, function: named.symbol.name,
            offset: named.offset, image: named.image, frames: frames)
    }

    /// Where in the guest the symbols with a name stand, mangled or not, in the order of images.
    public func addresses(ofSymbol name: String) -> [GuestVirtualAddress] {
        images.flatMap { image in
            image.symbols.symbols(named: name).map { .init($0.address &+ image.bias) }
        }
    }
}
