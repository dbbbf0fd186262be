internal import Disassembly
internal import Machine
internal import Trace

/// Prints exits for people, one line each:
///
///         16  0.001234  00101234  out 0x3f8 1 41 'A'           putc+0x12 (main.swift:34)
///         17  0.001260  0010122f  in 0x3fd 1 -> 60             putc+0x8 (main.swift:31)
///                       interrupt 0x20
///
/// A column for the vCPU appears in a machine with several. CPU mode and privilege level stand in
/// a line of their own where they change. What else happened before the next exit is indented
/// under the exit, and so are registers and the instruction where they are asked for. Where the
/// terminal is narrow, the symbol is what is cut short.
public struct TraceText {
    private let style: TextStyle
    private let options: DumpOptions
    private let stream: OutputStream
    private let names: AddressNames
    private let numberWidth: Int
    private let hasSeveralVCPUs: Bool
    private var line: TextLine
    private var lastState: (mode: CPUMode, cpl: UInt8, vCPU: UInt8)?
    /// The text of each address's name, by its number: made once.
    private var nameTexts: [String] = []

    /// Where the answer's text ends and the symbol begins, counted from the description's start.
    private static let descriptionWidth = 30
    /// Narrower terminals get no column of times.
    private static let widthForTime = 80

    /// Prints to a stream; `lastExit` is the highest number that may come, and `vCPUCount` says
    /// whether vCPUs are told apart.
    public init(
        _ stream: OutputStream, style: TextStyle = TextStyle(), options: DumpOptions = .init(),
        names: AddressNames = AddressNames(), lastExit: UInt64 = 999_999, vCPUCount: Int = 1
    ) {
        self.stream = stream
        self.style = style
        self.options = options
        self.names = names
        numberWidth = max(6, String(lastExit).utf8.count)
        hasSeveralVCPUs = vCPUCount > 1
        line = TextLine(style)
    }

    /// Prints one exit. The text before the number marks it: `>` for the one that matters.
    public mutating func write(_ frame: ExitFrame, mark: Character? = nil) {
        writeState(frame)
        if let mark { line.put(String(mark), .bold) }
        line.put(right: String(frame.number), width: numberWidth - line.column, .bold)
        if hasSeveralVCPUs { line.put("  cpu\(frame.vCPU)", .dim) }
        if options.showsTime, style.width >= Self.widthForTime, let time = frame.time {
            line.put("  " + Self.seconds(time.sinceStart), .dim)
        }
        line.put("  ")
        line.put(Self.address(frame), .dim)
        line.put("  ")
        let indent = line.column
        writeDescription(frame)
        if let name = nameText(frame) {
            line.pad(to: min(indent + Self.descriptionWidth, max(indent, style.width - 30)))
            line.put(" ")
            line.put(clipped: name, .symbol)
        }
        line.end(stream)
        let detailIndent = min(indent, max(numberWidth + 2, style.width - 60))
        writeInstruction(frame, detailIndent)
        writeRegisters(frame, detailIndent)
        for event in frame.events {
            // The exit's own line tells of it.
            if frame.isRewriting, case .completion = event { continue }
            line.pad(detailIndent)
            line.put(clipped: event.text, event.role)
            line.end(stream)
        }
    }

    /// Forgets what the last exit was, so that the next one tells mode and privilege level again.
    public mutating func beginAnew() { lastState = nil }

    /// Goes on as after this exit: mode and privilege level are told where they differ from its.
    mutating func assumeState(of frame: ExitFrame) {
        lastState = (frame.mode, frame.cpl, frame.vCPU)
    }

    private mutating func writeState(_ frame: ExitFrame) {
        if let last = lastState, last == (frame.mode, frame.cpl, frame.vCPU) { return }
        lastState = (frame.mode, frame.cpl, frame.vCPU)
        line.pad(numberWidth + 2)
        line.put("\(frame.mode.title), CPL \(frame.cpl)", .dim)
        line.end(stream)
    }

    private mutating func writeDescription(_ frame: ExitFrame) {
        let description = ExitDescription(frame)
        line.put(clipped: description.request, description.role)
        if let answer = description.answer {
            line.put(clipped: " -> ", .dim)
            line.put(clipped: answer, .input)
        }
    }

    /// `00101234`; `f000:e05b` in real mode.
    static func address(_ frame: ExitFrame) -> String {
        if frame.mode == .real {
            let selector = frame.system[.cs].selector
            return TextLine.hexadecimal(UInt64(selector), 4) + ":"
                + TextLine.hexadecimal(frame.instructionAddress & 0xFFFF, 4)
        }
        let address = frame.linearAddress
        return TextLine.hexadecimal(address, address >> 32 == 0 ? 8 : 16)
    }

    /// Nanoseconds as seconds with six places.
    static func seconds(_ nanoseconds: UInt64) -> String {
        let micro = nanoseconds / 1000
        let fraction = String(micro % 1_000_000)
        return "\(micro / 1_000_000)."
            + String(repeating: "0", count: 6 - fraction.utf8.count) + fraction
    }

    private mutating func nameText(_ frame: ExitFrame) -> String? {
        guard !names.isEmpty, let number = names.number(of: frame.linearAddress) else {
            return nil
        }
        while nameTexts.count <= number {
            nameTexts.append(names.name(numbered: nameTexts.count)?.text ?? "")
        }
        return nameTexts[number].isEmpty ? nil : nameTexts[number]
    }

    private mutating func writeInstruction(_ frame: ExitFrame, _ indent: Int) {
        guard let code = options.code,
            let instruction = code.instruction(at: frame.linearAddress, for: frame.system)
        else { return }
        line.pad(indent)
        let bytes = instruction.bytes.map { TextLine.hexadecimal(UInt64($0), 2) }
        line.put(bytes.joined(separator: " "), .dim)
        line.pad(to: indent + 24)
        line.put(clipped: instruction.text)
        line.end(stream)
    }

    // MARK: registers

    private mutating func writeRegisters(_ frame: ExitFrame, _ indent: Int) {
        guard options.registers != .none else { return }
        let showsAll = options.registers == .all
        for register in Register.allCases {
            let isChanged = frame.changedRegisters & 1 << UInt32(register.rawValue) != 0
            // RIP is in every line already.
            guard isChanged && register != .rip || showsAll else { continue }
            writeValue(register.name, frame.registers[register], isChanged && showsAll, indent)
        }
        if line.column > 0 { line.end(stream) }
        var mask = frame.changedSystemWords
        while mask != 0 {
            let word = mask.trailingZeroBitCount
            mask &= mask &- 1
            let name = SystemRegisters.fieldName(word)
            writeValue(name, frame.system.words[word], false, indent)
        }
        if line.column > 0 { line.end(stream) }
    }

    private mutating func writeValue(
        _ name: String, _ value: UInt64, _ isMarked: Bool, _ indent: Int
    ) {
        let isFixed = options.registers == .all
        let text = TextLine.hexadecimal(value, isFixed ? 16 : 1)
        let needed = name.utf8.count + 2 + text.utf8.count
        if line.column > 0, needed + 1 > line.room { line.end(stream) }
        if line.column == 0 { line.pad(indent) } else { line.put(" ") }
        if isFixed { line.pad(3 - name.utf8.count) }
        line.put(name + "=", .dim)
        line.put(text, isMarked ? .bold : .plain)
    }
}

extension CPUMode {
    /// The mode as people say it.
    var title: String {
        switch self {
        case .real: "real mode"
        case .protected16: "16-bit protected mode"
        case .protected32: "32-bit protected mode"
        case .compatibility: "compatibility mode"
        case .long: "long mode"
        }
    }
}

extension FrameEvent {
    var role: TextRole {
        switch self {
        case .completion: .warning
        case .interruption: .warning
        case .stored: .input
        case .deviceWrite: .input
        case .end(let end, _):
            [.internalError, .failEntry, .runnerError, .unhandledExit].contains(end.reason)
                ? .bad : .good
        }
    }
}
