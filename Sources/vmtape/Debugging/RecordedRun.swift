internal import Analysis
internal import Execution
internal import Machine
internal import Symbols
internal import Trace

/// A recorded run with a machine that stands somewhere in it, and the names of its code.
struct RecordedRun: ~Copyable {
    let reader: TraceReader
    let sources: TraceSources
    let symbolizer: Symbolizer
    let names: AddressNames
    var machine: TimeMachine

    /// Makes the machine, at the beginning.
    init(
        _ reader: TraceReader, _ host: borrowing Host, _ options: TravelOptions,
        _ symbols: SymbolOptions
    ) throws(CommandFailure) {
        let sources = TraceSources(reader)
        let symbolizer = try symbols.makeSymbolizer(sources)
        do throws(ExecutionError) {
            machine = try TimeMachine(host: host, reader: reader, options: options)
        } catch { throw CommandFailure.couldNot(error) }
        names = symbols.isOff ? AddressNames() : AddressNames(symbolizer)
        self.symbolizer = symbolizer
        self.sources = sources
        self.reader = reader
    }

    /// The functions on the stack where the machine stands.
    func backtrace() -> Backtrace {
        Unwinder(symbolizer).backtrace(machine.registers, machine.systemRegisters) {
            address, count in machine.memory(at: address, count: count)
        }
    }

    /// Instructions from an address on; nil: from the one that is next.
    func disassembly(_ address: GuestVirtualAddress?, count: Int) -> DisassemblyListing {
        DisassemblyListing(
            address ?? machine.instructionAddress, count: count, machine.systemRegisters,
            originals: OriginalBytes(reader.header.rewrittenSites)
        ) { address, count in machine.memory(at: address, count: count) }
    }

    /// The position, and what runs next: `12+345, next 00100030 uart_write+0x10 (io.c:4)`.
    func whereabouts() -> String {
        let address = machine.instructionAddress.rawValue
        var text = "\(machine.positionText), next \(RunText.hex(address, digits: 8))"
        if let name = names.name(of: address) { text += " \(name.text)" }
        if machine.ending != nil { text += ", the end of the run" }
        return text
    }
}

/// What a person is told of a replay that parts from its recording while it is travelled.
func divergenceLine(_ divergence: ReplayDivergence, _ reader: TraceReader) -> String {
    var details = divergence.registerDifferences.prefix(4).map {
        "\($0.name) recorded 0x\(String($0.expected, radix: 16)), "
            + "replayed 0x\(String($0.actual, radix: 16))"
    }
    if let expected = divergence.expected?.event, let actual = divergence.actual?.event {
        let (recorded, replayed) = (name(expected), name(actual))
        if recorded != replayed {
            details.insert("recorded \(recorded), replayed \(replayed)", at: 0)
        }
    }
    details += divergence.causes.prefix(1)
    return "\(reader.path): the replay parts from the recording at exit \(divergence.exitNumber)"
        + (details.isEmpty ? "" : " (\(details.joined(separator: "; ")))")
        + "; vmtape replay says more, if it parts there too"
}

private func name(_ event: Event) -> String {
    switch event {
    case .exit(let exit): exit.reason.name
    default: "\(event.kind)"
    }
}
