internal import Analysis
internal import ArgumentParser
internal import Execution
internal import Guest
internal import Machine
internal import Symbols
internal import Trace

/// Where names come from: shared by every command that shows addresses.
struct SymbolOptions: ParsableArguments {
    @Option(
        name: .customLong("symbols"),
        help: ArgumentHelp(
            "More symbols: an ELF file, a System.map or nm output, loaded at an offset; repeatable.",
            valueName: "file[@offset]"))
    var files: [String] = []

    @Flag(name: .customLong("no-symbols"), help: "Show addresses as numbers alone.")
    var isOff = false

    /// Names from the images the trace holds, then from the files given: a file of another build is
    /// warned of by its build-id, and names what the images do not.
    func makeNames(_ sources: TraceSources) throws(CommandFailure) -> AddressNames {
        isOff ? AddressNames() : AddressNames(try makeSymbolizer(sources))
    }

    /// What ``makeNames(_:)`` names by; empty where no names are wanted.
    func makeSymbolizer(_ sources: TraceSources) throws(CommandFailure) -> Symbolizer {
        let symbolizer = Symbolizer()
        if isOff { return symbolizer }
        if let plan = sources.plan, plan.image.starts(with: [0x7F, 0x45, 0x4C, 0x46]) {
            do throws(SymbolError) {
                try symbolizer.addGuestImage(
                    elf: plan.image, name: plan.records.first?.name ?? "guest image",
                    bias: sources.bias)
            } catch .noSymbols {
                // A stripped image is common, and its addresses are shown as they are.
            } catch { Message.note("\(error)") }
        }
        for file in files {
            do throws(SymbolError) { try symbolizer.addFile(argument: file) } catch {
                throw CommandFailure.couldNot(error)
            }
        }
        for warning in symbolizer.warnings { Message.note("\(warning)") }
        return symbolizer
    }
}

/// What a trace holds of its guest beside the run: the image, and where its code went.
struct TraceSources {
    /// The load, worked out again from the trace; nil where it cannot be.
    let plan: LoadPlan?

    init(_ reader: TraceReader) {
        guard !reader.header.images.isEmpty else {
            plan = nil
            return
        }
        do throws(ExecutionError) { plan = try LoadPlan(recordedIn: reader) } catch {
            Message.note("\(error); symbols of the image are not shown")
            plan = nil
        }
    }

    /// How far from its link addresses the image runs: a 32-bit ELF file that `--load` moved. 64-bit
    /// ones are mapped where they are linked, wherever they lie.
    var bias: UInt64 {
        guard let plan, plan.kind == .elf32, let code = plan.code.first else { return 0 }
        return code.physical.rawValue &- code.virtual.rawValue
    }

    /// The guest's code as its image has it, by the addresses it runs at.
    func code(_ header: TraceHeader) -> CodeBytes {
        var code = CodeBytes()
        guard let plan else { return code }
        for range in plan.code {
            let bytes = plan.image[range.fileRange]
            code.add(bytes, at: range.virtual.rawValue)
            if range.physical.rawValue != range.virtual.rawValue {
                code.add(bytes, at: range.physical.rawValue)
            }
        }
        for site in header.rewrittenSites {
            code.addOriginal(
                site.original, at: site.linearAddress?.rawValue ?? site.address.rawValue)
        }
        return code
    }
}
