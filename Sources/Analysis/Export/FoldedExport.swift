internal import Trace

/// Exits as folded stacks: `function;inlined function;out 0x3f8 123`, one line a stack, for
/// flame-graph tools.
///
/// A trace has no call stacks: the frames are the function of the instruction, what was inlined
/// there, and the kind of exit. What is counted is exits, or their nanoseconds. Lines come at the
/// end, in the order of their text; stacks beyond a bound are counted as `(other)`.
public struct FoldedExport {
    private let stream: OutputStream
    private let names: AddressNames
    private let measure: TimeMeasure?
    /// A number for each kind of exit.
    private var kindNumbers: [String: Int] = [:]
    private var kinds: [String] = []
    private var fastKinds = WordMap()
    /// Counts, by kind and number of the address.
    private var numbers = WordMap()
    private var keys: [(address: Int?, kind: Int)] = []
    private var counts: [UInt64] = []
    private var other: UInt64 = 0

    private static let limit = 1 << 16

    /// Begins an export; `measure` nil counts exits.
    public init(
        _ stream: OutputStream, names: AddressNames = AddressNames(), measure: TimeMeasure? = nil
    ) {
        self.stream = stream
        self.names = names
        self.measure = measure
    }

    /// Counts one exit.
    public mutating func add(_ frame: borrowing ExitFrame) {
        let value: UInt64 =
            switch measure {
            case .guest: frame.time?.guest ?? 0
            case .vmm: frame.time?.vmm ?? 0
            case nil: 1
            }
        let kind = kind(of: frame)
        let address = names.number(of: frame.linearAddress)
        let key = UInt64(kind) << 32 | UInt64(address.map { $0 + 1 } ?? 0)
        if let known = numbers[key] {
            counts[known] &+= value
        } else if keys.count < Self.limit {
            numbers.insert(key, keys.count)
            keys.append((address, kind))
            counts.append(value)
        } else {
            other &+= value
        }
    }

    private mutating func kind(of frame: borrowing ExitFrame) -> Int {
        // Port I/O, which is most of it, is told apart without making text.
        var fast: UInt64?
        if case .io(let isWrite, _, let port, _, _) = frame.detail, frame.flags.isEmpty {
            fast = UInt64(port) << 1 | (isWrite ? 1 : 0)
        }
        if let fast, let known = fastKinds[fast] { return known }
        let label = ExitKind.label(copy frame)
        var number = kindNumbers[label]
        if number == nil, kinds.count < Self.limit {
            number = kinds.count
            kindNumbers[label] = kinds.count
            kinds.append(label)
        }
        let found = number ?? 0
        if let fast { fastKinds.insert(fast, found) }
        return found
    }

    /// Writes the lines.
    public func finish() {
        var lines: [String: UInt64] = [:]
        for (index, key) in keys.enumerated() {
            let name = key.address.flatMap { names.name(numbered: $0) }
            var stack = name?.stack ?? []
            if stack.isEmpty {
                let address = key.address.map { names.address(numbered: $0) } ?? 0
                stack = ["0x\(TextLine.hexadecimal(address))"]
            }
            stack.append(kinds[key.kind])
            lines[stack.map(Self.frame).joined(separator: ";"), default: 0] &+= counts[index]
        }
        if other > 0 { lines["(other)"] = other }
        for (stack, count) in lines.sorted(by: { $0.key < $1.key }) {
            stream.write("\(stack) \(count)\n")
        }
    }

    /// A name without what separates frames and lines.
    private static func frame(_ name: String) -> String {
        String(name.map { $0 == ";" ? ":" : $0.isNewline ? " " : $0 })
    }
}
