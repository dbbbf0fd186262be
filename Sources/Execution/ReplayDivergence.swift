public import Machine
public import Trace

/// An event with the registers it came with.
public struct PlacedEvent: Sendable {
    /// The event; ranges in it are places in ``row``.
    public var event: Event
    /// Its bytes.
    public var row: [UInt8]
    /// Registers at it; nil where they could not be read.
    public var registers: GeneralRegisters?
    /// System registers at it.
    public var system: SystemRegisters?
}

/// Where a replay stopped being the recording: a result, not an error.
public struct ReplayDivergence: Sendable {
    /// What differs.
    public enum Place: Sendable {
        /// The first state, before any exit.
        case start
        /// The exit with ``ReplayDivergence/exitNumber``, or what followed it.
        case exit
        /// The end of the run: its reason, the final registers, or RAM.
        case end
    }

    /// What differs.
    public var place: Place
    /// The number of the exit at which it differs.
    public var exitNumber: UInt64
    /// What was recorded; nil where it cannot be decoded.
    public var expected: PlacedEvent?
    /// What happened.
    public var actual: PlacedEvent?
    /// Numbers of the RAM pages that differ at the end; empty if RAM is equal or was not compared.
    public var differingPages: [UInt64] = []
    /// What is likely to be behind it, the likeliest first.
    public var causes: [String] = []

    /// A difference in one register.
    public struct RegisterDifference: Equatable, Sendable {
        /// The register's name.
        public var name: String
        /// The recorded value.
        public var expected: UInt64
        /// The value on replay.
        public var actual: UInt64
    }

    /// Registers that differ, general ones first. System registers go by the words of
    /// `kvm_sregs`: one entry a word.
    public var registerDifferences: [RegisterDifference] {
        guard let expected, let actual else { return [] }
        var differences: [RegisterDifference] = []
        if let mine = actual.registers, let theirs = expected.registers {
            for register in Register.allCases where mine[register] != theirs[register] {
                differences.append(
                    .init(
                        name: register.name, expected: theirs[register], actual: mine[register]))
            }
        }
        if let mine = actual.system, let theirs = expected.system {
            for index in 0..<SystemRegisters.wordCount
            where mine.words[index] != theirs.words[index] {
                differences.append(
                    .init(
                        name: SystemRegisters.nameOfWord(index), expected: theirs.words[index],
                        actual: mine.words[index]))
            }
        }
        return differences
    }
}

extension ReplayDivergence {
    /// Makes sense of two rows that should be equal.
    ///
    /// - Parameters:
    ///   - registers: of the CPU as it stands.
    ///   - system: of the CPU as it stands.
    init(
        _ mismatch: TapeMismatch, place: Place, exitNumber: UInt64, reader: TraceReader,
        registers: GeneralRegisters, system: SystemRegisters
    ) {
        self.place = place
        self.exitNumber = exitNumber
        actual = RowReader.event(ofRow: mismatch.actual).map {
            PlacedEvent(
                event: $0, row: mismatch.actual, registers: registers, system: system)
        }
        expected = RowReader.event(ofRow: mismatch.expected).map {
            PlacedEvent(event: $0, row: mismatch.expected)
        }
        guard let event = expected?.event else { return }
        switch event {
        case .exit:
            guard let recorded = Self.registers(ofExit: exitNumber, reader) else { return }
            expected?.registers = recorded.registers
            expected?.system = recorded.system
        case .end:
            guard let end = try? reader.end() else { return }
            expected?.registers = end.registers
            expected?.system = end.system
        default: break
        }
    }

    private static func registers(
        ofExit number: UInt64, _ reader: TraceReader
    ) -> (registers: GeneralRegisters, system: SystemRegisters)? {
        do throws(TraceError) {
            var cursor = try reader.events(from: number)
            while let event = try cursor.next() {
                if case .exit = event { return (cursor.registers, cursor.system) }
            }
        } catch {}
        return nil
    }
}
