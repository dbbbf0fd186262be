internal import Machine
public import Symbols

/// What an instruction's address is called.
public struct AddressName: Equatable, Sendable {
    /// The function's whole name, parameters included, without offset.
    public var function: String
    /// The function's name as it fits in a column.
    public var shortFunction: String
    /// Bytes from the function's first instruction.
    public var offset: UInt64
    /// The source file of the innermost code there, as the debug information gives it.
    public var file: String?
    /// The line in ``file``, from 1.
    public var line: Int?
    /// The names of functions that were inlined around the address, innermost first.
    public var inlined: [String]

    /// Makes a name; `shortFunction` is `function` unless given.
    public init(
        function: String, shortFunction: String? = nil, offset: UInt64, file: String? = nil,
        line: Int? = nil, inlined: [String] = []
    ) {
        self.function = function
        self.shortFunction = shortFunction ?? function
        self.offset = offset
        self.file = file
        self.line = line
        self.inlined = inlined
    }

    /// The last component of ``file``.
    public var fileName: Substring? { file?.split(separator: "/").last }

    /// `function+0x12`: the same in two builds where the function is the same.
    public var site: String { "\(function)+0x\(String(offset, radix: 16))" }

    /// `file.swift:34`, where it is known.
    public var place: String? {
        guard let fileName else { return nil }
        return line.map { "\(fileName):\($0)" } ?? String(fileName)
    }

    /// `function+0x12 (file.swift:34)`, with the short name.
    public var text: String {
        let site = "\(shortFunction)+0x\(String(offset, radix: 16))"
        guard let place else { return site }
        return "\(site) (\(place))"
    }

    /// The functions of the address, the outermost first, as a folded stack has them.
    public var stack: [String] { [function] + inlined.reversed() }
}

extension AddressName {
    /// The name that symbols give.
    public init(_ found: SymbolizedAddress) {
        // As SymbolizedAddress.place chooses: code that a person wrote, with a line if possible.
        let inSource = found.frames.filter { $0.fileName?.hasPrefix("<") == false }
        let frame = inSource.first { $0.line != nil } ?? inSource.first
        self.init(
            function: found.function, shortFunction: Demangler.abbreviated(found.linkageName),
            offset: found.offset, file: frame?.file, line: frame?.line,
            inlined: found.frames.filter(\.isInlined).compactMap(\.function))
    }
}

extension AddressNames {
    /// Names addresses by what symbolizer finds.
    public convenience init(_ symbolizer: Symbolizer) {
        self.init { symbolizer.symbolize(GuestVirtualAddress($0)).map(AddressName.init) }
    }
}

/// The names of addresses, each looked up once: naming the exits of a run costs per distinct
/// address, and not per exit.
///
/// Addresses get dense numbers in the order in which they are first asked for, so that users can
/// keep what they know of an address in arrays.
public final class AddressNames {
    private let resolve: ((UInt64) -> AddressName?)?
    private var numbers = WordMap()
    private var names: [AddressName?] = []
    private var addresses: [UInt64] = []

    /// More distinct addresses than this are not remembered one by one: what follows has no name.
    static let capacity = 1 << 20

    /// Names addresses by a function; without one, nothing has a name.
    public init(_ resolve: ((UInt64) -> AddressName?)? = nil) { self.resolve = resolve }

    /// Whether anything can have a name.
    public var isEmpty: Bool { resolve == nil }

    /// How many addresses have a number.
    public var count: Int { names.count }

    /// The number of an address; nil once there are too many.
    @inline(__always)
    public func number(of address: UInt64) -> Int? {
        if let known = numbers[address] { return known }
        return add(address)
    }

    @inline(never)
    private func add(_ address: UInt64) -> Int? {
        guard names.count < Self.capacity else { return nil }
        numbers.insert(address, names.count)
        names.append(resolve?(address))
        addresses.append(address)
        return names.count - 1
    }

    /// The name of the address with a number.
    public func name(numbered number: Int) -> AddressName? { names[number] }

    /// The address with a number.
    public func address(numbered number: Int) -> UInt64 { addresses[number] }

    /// The name of an address.
    public func name(of address: UInt64) -> AddressName? {
        guard resolve != nil, let number = number(of: address) else { return nil }
        return names[number]
    }
}
