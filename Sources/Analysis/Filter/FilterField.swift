internal import Machine

/// A field of an exit, as a filter names it.
struct FilterField: Equatable {
    enum Kind: UInt8 {
        case exit, reason, port, address, direction, size, count, length, data, msr
        case vCPU, cpl, mode, vector, event
        case time, guestTime, vmmTime
        case instruction, linear, line
        /// A general-purpose register; `index` is its place.
        case register
        /// A word of the system registers; `index` is its place.
        case systemWord
        /// Fields that are text, and no number.
        case symbol, file
    }

    /// What a field may be compared with.
    enum Value: Equatable {
        case number
        /// One of a set of names, or a number.
        case names(FilterNames)
        /// Several of a set of names at once.
        case flags(FilterNames)
        case text
        /// Bytes: compared with strings, or with a number they make up little-endian.
        case bytes
    }

    var kind: Kind
    var index: UInt8 = 0
    /// For parts of registers: the value is shifted right, then masked.
    var shift: UInt8 = 0
    var mask: UInt64 = .max

    var value: Value {
        switch kind {
        case .reason: .names(.reason)
        case .direction: .names(.direction)
        case .mode: .names(.mode)
        case .event: .flags(.event)
        case .symbol, .file: .text
        case .data: .bytes
        default: .number
        }
    }

    /// Fields by name; registers are found by ``register(named:)``.
    static let table: [(name: String, kind: Kind)] = [
        ("exit", .exit), ("reason", .reason), ("port", .port), ("address", .address),
        ("addr", .address), ("direction", .direction), ("dir", .direction), ("size", .size),
        ("count", .count), ("length", .length), ("data", .data), ("msr", .msr),
        ("vcpu", .vCPU), ("cpl", .cpl), ("mode", .mode), ("vector", .vector), ("irq", .vector),
        ("event", .event), ("time", .time), ("guest_ns", .guestTime), ("vmm_ns", .vmmTime),
        ("rip", .instruction), ("pc", .linear), ("line", .line), ("symbol", .symbol),
        ("function", .symbol), ("file", .file),
    ]

    init(_ kind: Kind, index: Int = 0, shift: UInt8 = 0, mask: UInt64 = .max) {
        self.kind = kind
        self.index = UInt8(truncatingIfNeeded: index)
        self.shift = shift
        self.mask = mask
    }

    init?(named name: String) {
        if let entry = Self.table.first(where: { $0.name == name }) {
            self.init(entry.kind)
        } else if let register = Self.register(named: name) {
            self = register
        } else {
            return nil
        }
    }

    /// `rax`, `eax`, `ax`, `al`, `ah`, `r8d`, `cr3`, `cs`, `fs.base`, `gdt.limit`, …
    static func register(named name: String) -> FilterField? {
        for register in Register.allCases where register != .rip {
            if register.name == name { return FilterField(.register, index: register.rawValue) }
            for part in parts(of: register) where part.name == name {
                return FilterField(
                    .register, index: register.rawValue, shift: part.shift, mask: part.mask)
            }
        }
        for control in SystemRegisters.ControlName.allCases where control.name == name {
            return FilterField(.systemWord, index: control.rawValue)
        }
        for segment in SystemRegisters.SegmentName.allCases {
            let word = segment.rawValue * 3
            switch name {
            case segment.name:
                return FilterField(.systemWord, index: word + 1, shift: 32, mask: 0xFFFF)
            case "\(segment.name).base": return FilterField(.systemWord, index: word)
            case "\(segment.name).limit":
                return FilterField(.systemWord, index: word + 1, mask: 0xFFFF_FFFF)
            default: continue
            }
        }
        switch name {
        case "gdt", "gdt.base": return FilterField(.systemWord, index: 24)
        case "gdt.limit": return FilterField(.systemWord, index: 25, mask: 0xFFFF)
        case "idt", "idt.base": return FilterField(.systemWord, index: 26)
        case "idt.limit": return FilterField(.systemWord, index: 27, mask: 0xFFFF)
        default: return nil
        }
    }

    private static func parts(
        of register: Register
    ) -> [(name: String, shift: UInt8, mask: UInt64)] {
        let name = register.name
        let rest = String(name.dropFirst())
        switch register {
        case .rax, .rbx, .rcx, .rdx:
            let letter = String(rest.prefix(1))
            return [
                ("e" + rest, 0, 0xFFFF_FFFF), (rest, 0, 0xFFFF), (letter + "l", 0, 0xFF),
                (letter + "h", 8, 0xFF),
            ]
        case .rsi, .rdi, .rsp, .rbp:
            return [("e" + rest, 0, 0xFFFF_FFFF), (rest, 0, 0xFFFF), (rest + "l", 0, 0xFF)]
        case .rflags: return [("eflags", 0, 0xFFFF_FFFF)]
        case .rip: return []
        default:
            return [
                (name + "d", 0, 0xFFFF_FFFF), (name + "w", 0, 0xFFFF), (name + "b", 0, 0xFF),
            ]
        }
    }

    /// The words of the system registers that `changed(name)` looks at, one bit each.
    static func systemWords(named name: String) -> UInt64? {
        for segment in SystemRegisters.SegmentName.allCases where segment.name == name {
            return 0b111 << UInt64(segment.rawValue * 3)
        }
        switch name {
        case "gdt": return 0b11 << 24
        case "idt": return 0b11 << 26
        default: break
        }
        guard let field = register(named: name), field.kind == .systemWord else { return nil }
        return 1 << UInt64(field.index)
    }
}

/// A set of names that stand for numbers.
enum FilterNames {
    case reason, direction, mode, event

    /// What the names are called in an error message.
    var title: String {
        switch self {
        case .reason: "exit reason"
        case .direction: "direction"
        case .mode: "CPU mode"
        case .event: "event kind"
        }
    }

    /// Names and their numbers; of ``event``, places of bits.
    var table: [(name: String, number: UInt64)] {
        switch self {
        case .reason:
            ExitReason.named.map { ($0.name, UInt64($0.rawValue)) }
                + [("rdmsr", 29), ("wrmsr", 30)]
        case .direction: [("in", 0), ("out", 1), ("read", 0), ("write", 1)]
        case .mode: CPUMode.allCases.enumerated().map { ($1.rawValue, UInt64($0)) }
        case .event:
            [
                ("answer", 0), ("completion", 1), ("interruption", 2), ("device_write", 3),
                ("end", 4),
            ]
        }
    }

    func number(of name: String) -> UInt64? { table.first { $0.name == name }?.number }
}
