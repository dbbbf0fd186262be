internal import KVM
internal import Machine
internal import Trace

/// A keyframe as parts of a record (FORMAT.md, "Keyframe file"): all numbers are 64 bits wide.
///
/// What comes from a file is checked against the machine that it is for: it has the same MSRs, the
/// same XSAVE area, and the counts agree with each other.
enum KeyframeCoding {
    private enum Tag {
        static let general: UInt32 = 16
        static let system: UInt32 = 17
        static let extended: UInt32 = 18
        static let extendedControl: UInt32 = 19
        static let debug: UInt32 = 20
        static let events: UInt32 = 21
        static let msrs: UInt32 = 22
        static let run: UInt32 = 23
        static let tape: UInt32 = 24
        static let sites: UInt32 = 25
        static let rewritten: UInt32 = 26
    }

    /// The parts of a frame; what was found of the sites is left out where the frame before has the
    /// same.
    static func parts(
        of frame: borrowing Keyframe, withSites: Bool
    ) -> [KeyframeRecord.Part] {
        let cpu = frame.cpu
        var parts: [KeyframeRecord.Part] = [
            .init(tag: Tag.general, words: words(cpu.registers.words)),
            .init(tag: Tag.system, words: words(cpu.system.words)),
            .init(tag: Tag.extended, words: words(cpu.extended)),
            .init(
                tag: Tag.extendedControl,
                words: cpu.extendedControl.flatMap { [UInt64($0.index), $0.value] }),
            .init(tag: Tag.debug, words: words(cpu.debug.words)),
            .init(tag: Tag.events, words: words(cpu.events.words)),
            .init(tag: Tag.msrs, words: cpu.msrs.flatMap { [UInt64($0.index), $0.value] }),
            .init(
                tag: Tag.run,
                words: [
                    UInt64(cpu.mpState.rawValue), cpu.progress == nil ? 0 : 1,
                    cpu.progress ?? 0, frame.spanStart, number(of: frame.standing),
                    frame.nanoseconds, frame.loop.exceptionCount,
                ]),
            .init(tag: Tag.tape, words: frame.tape.words),
        ]
        if withSites { parts.append(.init(tag: Tag.sites, words: frame.loop.sites.words)) }
        return parts
    }

    /// The frame that a record holds, without its pages; nil where it is none of this machine's.
    ///
    /// - Parameters:
    ///   - first: a frame of the machine at hand.
    ///   - sites: those of the frame before.
    static func frame(
        _ record: KeyframeRecord, like first: borrowing Keyframe,
        sites: InstructionFinder.Memory
    ) -> Keyframe? {
        func part(_ tag: UInt32, _ count: Int? = nil) -> [UInt64]? {
            let found = record.parts.filter { $0.tag == tag }
            guard found.count == 1, count.map({ $0 == found[0].words.count }) ?? true else {
                return nil
            }
            return found[0].words
        }
        let model = first.cpu
        guard let run = part(Tag.run, 7), let general = part(Tag.general, 18),
            let system = part(Tag.system, 40), let debug = part(Tag.debug, 16),
            let events = part(Tag.events, 8),
            let extended = part(Tag.extended, (model.extended.count + 7) / 8),
            let controls = part(Tag.extendedControl, model.extendedControl.count * 2),
            let msrs = part(Tag.msrs, model.msrs.count * 2),
            let tape = part(Tag.tape), let place = Tape.Place(words: tape),
            let state = UInt32(exactly: run[0]), run[1] <= 1, run[5] < 1 << 62,
            let standing = standings.first(where: { $0.number == run[4] })?.standing
        else { return nil }
        var cpu = model
        cpu.mpState = MPState(rawValue: state)
        cpu.progress = run[1] == 1 ? run[2] : nil
        for index in general.indices { cpu.registers.words[index] = general[index] }
        for index in system.indices { cpu.system.words[index] = system[index] }
        for index in debug.indices { cpu.debug.words[index] = debug[index] }
        for index in events.indices { cpu.events.words[index] = events[index] }
        cpu.extended = bytes(extended, count: model.extended.count)
        for index in cpu.extendedControl.indices {
            guard controls[index * 2] == UInt64(cpu.extendedControl[index].index) else {
                return nil
            }
            cpu.extendedControl[index].value = controls[index * 2 + 1]
        }
        for index in cpu.msrs.indices {
            guard msrs[index * 2] == UInt64(cpu.msrs[index].index) else { return nil }
            cpu.msrs[index].value = msrs[index * 2 + 1]
        }
        let instructions = cpu.progress.map { $0 &- run[3] } ?? 0
        guard (cpu.progress == nil) == (model.progress == nil),
            record.position
                == Position(
                    exitCount: place.exitCount, instructions: instructions,
                    ring3: record.position.ring3),
            (standing == .inRing3) == (record.position.ring3 != nil),
            record.position > .begin
        else { return nil }
        var memory = sites
        if let words = part(Tag.sites) {
            guard let own = InstructionFinder.Memory(words: words) else { return nil }
            memory = own
        }
        return Keyframe(
            position: record.position, cpu: cpu, tape: place,
            loop: RunLoop.Place(
                exitCount: place.exitCount, exceptionCount: run[6], sites: memory),
            spanStart: run[3], standing: standing,
            nanoseconds: run[5])
    }

    /// How a keyframe may stand.
    private static let standings: [(standing: Standing, number: UInt64)] = [
        (.atExit, 0), (.afterStop, 1), (.inRing3, 2),
    ]

    private static func number(of standing: Standing) -> UInt64 {
        standings.first { $0.standing == standing }?.number ?? 1
    }

    private static func words<let count: Int>(_ array: InlineArray<count, UInt64>) -> [UInt64] {
        array.indices.map { array[$0] }
    }

    private static func words(_ bytes: [UInt8]) -> [UInt64] {
        stride(from: 0, to: bytes.count, by: 8).map { start in
            bytes[start..<min(start + 8, bytes.count)].reversed().reduce(0) {
                $0 << 8 | UInt64($1)
            }
        }
    }

    private static func bytes(_ words: [UInt64], count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(words.count * 8)
        for word in words {
            for index in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: word >> (index * 8))) }
        }
        return Array(bytes.prefix(count))
    }
}

extension Tape.Place {
    /// Counts, then the registers that rows are encoded relative to.
    var words: [UInt64] {
        [exitCount, UInt64(rowsSinceExit)] + registers.words.indices.map { registers.words[$0] }
            + system.words.indices.map { system.words[$0] }
    }

    /// Reads ``words``; nil where they are none.
    init?(words: [UInt64]) {
        let general = GeneralRegisters.count
        guard words.count == 2 + general + SystemRegisters.wordCount,
            let rows = Int(exactly: words[1])
        else { return nil }
        var registers = GeneralRegisters()
        var system = SystemRegisters()
        for index in 0..<general { registers.words[index] = words[2 + index] }
        for index in 0..<SystemRegisters.wordCount {
            system.words[index] = words[2 + general + index]
        }
        self.init(
            exitCount: words[0], rowsSinceExit: rows, registers: registers, system: system)
    }
}

extension KeyframeCoding {
    private static let siteWords = 6
    private static let siteBytes = 16

    /// The part that tells of instructions which were rewritten on the way.
    static func part(of sites: [RewrittenSite]) -> KeyframeRecord.Part {
        func padded(_ bytes: [UInt8]) -> [UInt64] {
            words(bytes + [UInt8](repeating: 0, count: max(0, siteBytes - bytes.count)))
        }
        return .init(
            tag: Tag.rewritten,
            words: sites.flatMap { site in
                [site.address.rawValue, UInt64(site.original.count)] + padded(site.original)
                    + padded(site.replacement)
            })
    }

    /// The sites that a record tells of; nil where they make no sense.
    static func sites(_ record: KeyframeRecord) -> [RewrittenSite]? {
        var sites: [RewrittenSite] = []
        for part in record.parts where part.tag == Tag.rewritten {
            guard part.words.count % siteWords == 0 else { return nil }
            for start in stride(from: 0, to: part.words.count, by: siteWords) {
                guard let count = Int(exactly: part.words[start + 1]), count <= siteBytes else {
                    return nil
                }
                sites.append(
                    RewrittenSite(
                        address: GuestPhysicalAddress(part.words[start]),
                        original: bytes(Array(part.words[(start + 2)..<(start + 4)]), count: count),
                        replacement: bytes(
                            Array(part.words[(start + 4)..<(start + 6)]), count: count)))
            }
        }
        return sites
    }
}
