import Glibc
import Machine
import TestSupport
import Testing

@testable import Symbols

/// The reading of GNU binutils, which ours must agree with. (LLVM's, up to version 14, forgets the
/// frame address at DW_CFA_restore_state.)
private enum FrameTable {
    static let tool = "/usr/bin/readelf"
    // SAFETY: the path is passed as a C string, here and below.
    static var isThere: Bool { unsafe access(tool, X_OK) == 0 }

    struct Row {
        var address: UInt64
        /// `rsp+8`, and of each register `c-16`, `u`, `s`, `exp`.
        var places: [(name: Substring, place: Substring)]
    }

    /// The rows of every function, of both sections.
    static func rows(_ path: String) -> [Row] {
        // SAFETY: popen and getc on a stream that this function opens and closes.
        guard let stream = unsafe popen("LC_ALL=C '\(tool)' -wF '\(path)'", "r") else { return [] }
        var output: [UInt8] = []
        while case let character = unsafe getc(stream), character != EOF {
            output.append(UInt8(truncatingIfNeeded: character))
        }
        unsafe pclose(stream)
        var rows: [Row] = []
        var names: [Substring] = []
        var isFunction = false
        for line in String(decoding: output, as: UTF8.self).split(separator: "\n") {
            let fields = line.split(separator: " ")
            if fields.contains("FDE") || fields.contains("CIE") {
                // What linkers left out stands at zero.
                isFunction =
                    fields.contains("FDE")
                    && !fields.contains { $0.hasPrefix("pc=0000000000000000..") }
            } else if fields.first == "LOC" {
                names = Array(fields.dropFirst())
            } else if isFunction, fields.count == names.count + 1,
                let address = UInt64(fields[0], radix: 16)
            {
                rows.append(
                    Row(address: address, places: Array(zip(names, fields.dropFirst()))))
            }
        }
        return rows
    }
}

extension CallFrameRules {
    /// As binutils write where a register is, or the frame itself.
    fileprivate func text(of column: Substring, _ machine: CallFrameMachine) -> String? {
        if column == "CFA" {
            guard case .register(let number, let offset) = canonicalAddress else { return "exp" }
            return name(number, machine) + signed(offset)
        }
        guard let number = machine.registers.indices.first(where: { name($0, machine) == column })
        else { return nil }
        switch registers[number] {
        case .undefined, .sameValue: return "u"
        case .offset(let offset): return "c" + signed(offset)
        case .valueOffset(let offset): return "v" + signed(offset)
        case .register(let other): return name(other, machine)
        case .expression: return "exp"
        case .valueExpression: return "vexp"
        }
    }

    private func signed(_ number: Int64) -> String { number < 0 ? "\(number)" : "+\(number)" }

    private func name(_ number: Int, _ machine: CallFrameMachine) -> String {
        if number == machine.returnAddress { return "ra" }
        let name = machine.registers[number].name
        return machine == .i386 ? "e" + name.dropFirst() : name
    }
}

@Suite struct CallFrameTests {
    private static let repository: String = {
        let here = #filePath
        return here.split(separator: "/").dropLast(3).map { "/\($0)" }.joined()
    }()

    static let files = [
        "\(repository)/Samples/bin/swift-kernel", "\(repository)/Samples/bin/mmio",
        "\(repository)/Samples/bin/gaps", Fixture.kernel64.path, Fixture.kernel32.path,
        Fixture.swift.path, "/bin/dash",
    ]

    @Test(
        .enabled(if: FrameTable.isThere, "needs \(FrameTable.tool)"), arguments: files)
    func rulesAreThoseOfBinutils(_ path: String) throws {
        // /bin/dash stands for what compilers make for Linux: .eh_frame, and is not everywhere.
        guard unsafe access(path, R_OK) == 0 || !path.hasPrefix("/bin") else { return }
        let file = try ELFFile(try readFile(path), name: path)
        let information = try #require(CallFrameInformation(file))
        #expect(information.damage == nil)
        let rows = FrameTable.rows(path)
        #expect(rows.count > 10)
        for row in rows {
            let found = try #require(information.rules(at: row.address), "\(row)")
            for (name, place) in row.places {
                // What a function did not touch yet is u or s there, by what was said of others.
                let text = found.rules.text(of: name, information.machine)
                #expect(text == (place == "s" ? "u" : String(place)), "\(name) of \(row)")
            }
        }
    }

    /// Every place between rows has the rules of the row before it.
    @Test func rulesHoldUpToTheNextRow() throws {
        let bytes = section(
            [
                // def_cfa rsp+8; offset rip at cfa-8
                0x0C, 7, 8, 0x90, 1,
            ], function: [0x41, 0x0E, 16, 0x86, 2, 0x43, 0x0D, 6, 0x4C, 0x0C, 7, 8, 0xC6])
        for (address, wanted, hasFramePointer) in [
            (0x1000, CallFrameRules.CanonicalAddress.register(7, offset: 8), false),
            (0x1001, .register(7, offset: 16), true), (0x1003, .register(7, offset: 16), true),
            (0x1004, .register(6, offset: 16), true), (0x100F, .register(6, offset: 16), true),
            (0x1010, .register(7, offset: 8), false), (0x10FF, .register(7, offset: 8), false),
        ] as [(UInt64, CallFrameRules.CanonicalAddress, Bool)] {
            let found = try #require(rules(bytes, at: address))
            #expect(found.canonicalAddress == wanted)
            #expect(found.registers[6] == (hasFramePointer ? .offset(-16) : .sameValue))
            #expect(found.registers[16] == .offset(-8))
        }
        #expect(rules(bytes, at: 0xFFF) == nil)
        #expect(rules(bytes, at: 0x1100) == nil)
    }

    @Test func everyInstructionDoesWhatTheStandardSays() throws {
        func rule(_ program: [UInt8], _ number: Int = 3) -> CallFrameRules.Rule? {
            rules(section([0x0C, 7, 8, 0x90, 1], function: program), at: 0x1000)?
                .registers[number]
        }
        #expect(rule([0x07, 3]) == .undefined)
        #expect(rule([0x07, 3, 0x08, 3]) == .sameValue)
        #expect(rule([0x05, 3, 2]) == .offset(-16))
        #expect(rule([0x11, 3, 0x7E]) == .offset(16))
        #expect(rule([0x2F, 3, 2]) == .offset(16))
        #expect(rule([0x14, 3, 2]) == .valueOffset(-16))
        #expect(rule([0x15, 3, 0x7E]) == .valueOffset(16))
        #expect(rule([0x09, 3, 12]) == .register(12))
        #expect(rule([0x83, 4, 0x06, 3]) == .sameValue)
        #expect(rule([0x83, 4, 0x0A, 0x83, 5, 0x0B]) == .offset(-32))
        #expect(rule([0x2E, 16, 0x00, 0x83, 1]) == .offset(-8))
        let expression = rules(
            section([0x0C, 7, 8], function: [0x0F, 2, 0x77, 8, 0x10, 3, 1, 0x30]), at: 0x1000)
        guard case .expression(let range)? = expression?.canonicalAddress else {
            Issue.record("no expression")
            return
        }
        #expect(range.count == 2)
    }

    /// What libdw's interpreter allocates gigabytes for.
    @Test(
        arguments: [
            // Registers far beyond any: offset_extended, register, restore_extended, def_cfa.
            [0x05, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 1],
            [0x09, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
            [0x06, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
            [0x0C, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 8],
        ] as [[UInt8]])
    func registersThatAreNoneAreLeftOut(_ program: [UInt8]) throws {
        let found = try #require(
            rules(section([0x0C, 7, 8, 0x90, 1], function: program), at: 0x1000))
        #expect(found.registers[3] == .sameValue)
        #expect(found.registers[16] == .offset(-8))
        if program[0] == 0x0C { #expect(found.canonicalAddress == .unknown) }
    }

    @Test(
        arguments: [
            // Restoring what was never remembered, a block beyond the end, a number that never ends,
            // an instruction that is none, and states remembered without end.
            [0x0B], [0x0F, 0x7F, 1], [0x0E, 0x80], [0x3F], [UInt8](repeating: 0x0A, count: 200),
        ] as [[UInt8]])
    func programsThatMakeNoSenseGiveNothing(_ program: [UInt8]) {
        #expect(rules(section([0x0C, 7, 8], function: program), at: 0x1000) == nil)
    }

    @Test func everyTruncationAndEveryByteIsSurvived() {
        let whole = section(
            [0x0C, 7, 8, 0x90, 1], function: [0x41, 0x0E, 16, 0x86, 2, 0x0F, 2, 0x77, 8])
        for length in whole.indices { _ = rules(Array(whole[..<length]), at: 0x1001) }
        var generator = SeededGenerator(seed: 7)
        for _ in 0..<20_000 {
            var bytes = whole
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                bytes[Int.random(in: bytes.indices, using: &generator)] = .random(
                    in: 0...255, using: &generator)
            }
            _ = rules(bytes, at: 0x1001)
            _ = rules(bytes, at: 0x1001, isExceptionData: true)
        }
    }

    /// The rest of a section is lost where a length leads out of it; a person is told once.
    @Test func damageIsAWarning() throws {
        var bytes = try Fixture.kernel32.bytes()
        // The function of the second entry, and the length before it.
        let entry: [UInt8] = [0x1C, 0, 0, 0, 0, 0, 0, 0, 0x30, 0, 0x10, 0]
        let at = try #require(bytes.indices.first { bytes[$0...].starts(with: entry) })
        bytes[at + 3] = 0x7F
        let symbolizer = Symbolizer()
        try symbolizer.addGuestImage(elf: bytes, name: "damaged.elf", search: nil)
        #expect(symbolizer.warnings.isEmpty)
        #expect(symbolizer.callFrame(at: 0x10_0030) == nil)
        #expect(symbolizer.warnings.count == 1)
        #expect(symbolizer.warnings.first?.description.contains("backtraces may end early") == true)
    }

    // MARK: expressions

    @Test(
        arguments: [
            ([0x77, 8], 0x8008), ([0x77, 0x78], 0x7FF8), ([0x31, 0x32, 0x22], 3),
            ([0x08, 0xFF], 0xFF), ([0x09, 0xFF], UInt64.max), ([0x0A, 1, 2], 0x201),
            ([0x10, 0x81, 1], 129), ([0x11, 0x7F], .max), ([0x35, 0x33, 0x1C], 2),
            ([0x31, 0x32, 0x16, 0x1C], 1), ([0x31, 0x32, 0x14, 0x22, 0x22], 4),
            ([0x77, 0, 0x06], 0x1122_3344_5566_7788), ([0x77, 0, 0x94, 2], 0x7788),
            ([0x30, 0x28, 1, 0, 0x31, 0x35], 5), ([0x31, 0x28, 1, 0, 0x31, 0x35], 5),
            ([0x2F, 1, 0, 0x31, 0x36], 6), ([0x36, 0x23, 0x10], 22), ([0x31, 0x1F], .max),
            ([0x31, 0x08, 64, 0x24], 0), ([0x92, 7, 0], 0x8000), ([0x03] + eight(0x10), 0x5010),
            ([0x38, 0x33, 0x1B], 2), ([0x38, 0x33, 0x1D], 2), ([0x33, 0x38, 0x2D], 1),
        ] as [([UInt8], UInt64)])
    func expressionsAreEvaluated(_ expression: [UInt8], _ wanted: UInt64) {
        #expect(value(expression) == wanted)
    }

    private static func eight(_ byte: UInt8) -> [UInt8] { [byte] + [UInt8](repeating: 0, count: 7) }

    @Test(
        arguments: [
            // An empty stack, a register that is not known, division by zero, the quotient that does
            // not fit, memory that is not mapped, an operation that is none, an endless loop, a
            // branch out of the expression, and a stack that grows.
            [], [0x22], [0x70, 0], [0x31, 0x30, 0x1B], [0x30, 0x06], [0x01],
            [0x31, 0x2F, 0xFC, 0xFF], [0x2F, 0x00, 0x40], [0x31, 0x31, 0x2F, 0xFB, 0xFF],
        ] as [[UInt8]])
    func expressionsThatMakeNoSenseGiveNothing(_ expression: [UInt8]) {
        #expect(value(expression) == nil)
    }

    private func value(_ expression: [UInt8]) -> UInt64? {
        var registers = UnwindRegisters()
        registers[.rsp] = 0x8000
        var evaluation = CallFrameExpression(machine: .amd64, bias: 0x5000, registers: registers)
        return evaluation.value(of: 0..<expression.count, in: expression, initial: nil) {
            $0 == 0x8000 ? 0x1122_3344_5566_7788 & ($1 == 8 ? .max : 1 << UInt64($1 * 8) - 1) : nil
        }
    }

    // MARK: sections

    /// A .debug_frame with one common part and one function at 0x1000, 256 bytes long.
    private func section(_ common: [UInt8], function: [UInt8]) -> [UInt8] {
        func word(_ number: Int) -> [UInt8] {
            (0..<4).map { UInt8(truncatingIfNeeded: number >> ($0 * 8)) }
        }
        func long(_ number: Int) -> [UInt8] { word(number) + word(0) }
        // Version 1, no augmentation, factors 1 and -8, return address 16.
        let first = [0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 1, 0x78, 16] + common
        let second = word(0) + long(0x1000) + long(0x100) + function
        return word(first.count) + first + word(second.count) + second
    }

    private func rules(
        _ bytes: [UInt8], at address: UInt64, isExceptionData: Bool = false
    ) -> CallFrameRules? {
        var section = CallFrameSection(
            name: ".debug_frame", bytes: bytes, address: 0, isExceptionData: isExceptionData,
            machine: .amd64)
        for entry in section.entries()
        where entry.start <= address && address &- entry.start < entry.length {
            var program = CallFrameProgram(
                section.commons[entry.common], machine: .amd64, start: entry.start,
                address: address)
            return program.run(entry.instructions, in: bytes)
        }
        return nil
    }
}
