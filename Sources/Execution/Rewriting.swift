internal import Disassembly
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// The instructions of a guest that are rewritten to exits, and how.
public struct Rewriting: Sendable {
    /// Each place, with the bytes before and after.
    var sites: [RewrittenSite] = []
    /// What the OUTs stand for.
    var traps = RewriteTraps()
    /// Finds what is rewritten when it is first executed; nil: nothing is.
    var watch: CodeWatch?

    /// Ports that may be taken; the first whose OUT the image does not use is. The first two keep
    /// the sum of the bytes they replace, so that checksummed images stay valid: 0F+31 = E6+5A and
    /// 0F+A2 = E6+CB modulo 256.
    private static let timeStampPorts: [UInt8] = [0x5A, 0x5B, 0x5C, 0x5D, 0x5E, 0x5F]
    private static let cpuidPorts: [UInt8] = [0xCB, 0xCD, 0xCF, 0xDB, 0xDD]

    /// Nothing is rewritten.
    public init() {}

    /// Finds what is to be rewritten in a load.
    ///
    /// Only in what the file itself says is code (sections of an ELF file): elsewhere the same
    /// bytes may be data, and rewriting them would change the guest. There they are rewritten when
    /// they are about to be executed, if they are watched.
    ///
    /// - Parameters:
    ///   - rewritesCPUID: the host does not show guests the table that was asked for.
    ///   - watches: the host has breakpoints to find what no file tells of.
    init(_ plan: LoadPlan, rewritesCPUID: Bool, watches: Bool = false) {
        // Ports of OUTs, and how often bytes anywhere in the code spell one.
        var used: Set<UInt8> = []
        var spelled = [Int](repeating: 0, count: 256)
        var found: [(kind: Instruction.Kind, range: CodeRange, offset: Int)] = []
        let disassembler = Disassembler(
            plan.kind == .elf64 || plan.kind == .linux ? .long64 : .protected32)
        for range in plan.code where watches || range.isCertain {
            let bytes = Array(plan.image[range.fileRange])
            for index in bytes.indices.dropLast() where bytes[index] == RewriteTraps.outOpcode {
                spelled[Int(bytes[index + 1])] += 1
            }
            guard range.isCertain else { continue }
            let wanted: [Instruction.Kind] =
                rewritesCPUID ? [.portOut, .rdtsc, .cpuid] : [.portOut, .rdtsc]
            for place in disassembler.occurrences(of: wanted, in: bytes) where place.length == 2 {
                guard place.kind == .portOut else {
                    found.append((place.kind, range, place.offset))
                    continue
                }
                if bytes[place.offset] == RewriteTraps.outOpcode {
                    used.insert(bytes[place.offset + 1])
                }
            }
        }
        // In some MiB every pair of bytes comes up somewhere, nearly always in the midst of others:
        // the first port of those spelled least. (min(by:) gives the first of equals.)
        func free(_ ports: [UInt8]) -> UInt8? {
            ports.filter { !used.contains($0) }.min { spelled[Int($0)] < spelled[Int($1)] }
        }
        traps.timeStampPort = free(Self.timeStampPorts)
        traps.cpuidPort = rewritesCPUID ? free(Self.cpuidPorts) : nil
        for place in found {
            let port = place.kind == .cpuid ? traps.cpuidPort : traps.timeStampPort
            guard let port else { continue }
            let at = UInt64(place.offset)
            let start = place.range.fileRange.lowerBound + place.offset
            sites.append(
                RewrittenSite(
                    address: GuestPhysicalAddress(place.range.physical.rawValue + at),
                    linearAddress: GuestVirtualAddress(place.range.virtual.rawValue + at),
                    original: Array(plan.image[start..<start + 2]),
                    replacement: [RewriteTraps.outOpcode, port]))
        }
        if watches {
            watch = makeWatch(plan)
            return
        }
        if !sites.contains(where: { $0.replacement[1] == traps.timeStampPort }) {
            traps.timeStampPort = nil
        }
        if !sites.contains(where: { $0.replacement[1] == traps.cpuidPort }) {
            traps.cpuidPort = nil
        }
    }

    private func makeWatch(_ plan: LoadPlan) -> CodeWatch {
        CodeWatch(
            second: (traps.timeStampPort == nil ? [] : [RewriteTraps.secondOfRDTSC])
                + (traps.cpuidPort == nil ? [] : [RewriteTraps.secondOfCPUID]),
            certain: Self.addresses(plan, isCertain: true),
            loaded: Self.addresses(plan, isCertain: false))
    }

    private static func addresses(_ plan: LoadPlan, isCertain: Bool) -> [Range<UInt64>] {
        plan.code.filter { $0.isCertain == isCertain }.map {
            let start = $0.virtual.rawValue
            // Linked right below the end of the address space, its last byte is left out.
            let (end, isPast) = start.addingReportingOverflow(UInt64($0.fileRange.count))
            return start..<(isPast ? .max : end)
        }
    }

    /// What a new guest needs on this host.
    init(_ configuration: LiveConfiguration, _ host: borrowing Host) {
        guard configuration.rewritesTimeStamp else {
            self.init()
            return
        }
        let behaviour = host.probe.behaviour
        self.init(
            configuration.plan, rewritesCPUID: !behaviour.hidesCPUID,
            watches: behaviour.breakpointRing0 == .yes)
    }

    /// What a trace keeps of it, as properties of the machine.
    var properties: [Property] {
        traps.properties + (watch == nil ? [] : [Self.watchProperty])
    }

    /// What no file tells of is rewritten when it is first executed.
    static let watchProperty = Property("rewrite.when-executed", "on")

    /// The rewriting that a trace tells of.
    init(_ header: TraceHeader) {
        sites = header.rewrittenSites
        traps = RewriteTraps(header.machine)
    }

    /// The rewriting that a trace tells of, for a run that leaves it: what is executed first after
    /// that is found as in a recording.
    init(_ header: TraceHeader, _ plan: LoadPlan, watches: Bool) {
        self.init(header)
        guard watches else { return }
        watch = makeWatch(plan)
    }

    /// Puts the replacements into memory.
    ///
    /// - Throws: where memory does not hold the original bytes: this is not the image.
    func apply(to memory: borrowing GuestMemory) throws(ExecutionError) {
        for site in sites {
            let bytes = try guest { () throws(GuestError) in
                try memory.read(site.address, count: site.original.count)
            }
            guard bytes == site.original, site.replacement.count == site.original.count else {
                throw .cannotReplay(
                    "the instruction to be rewritten at 0x"
                        + String(site.address.rawValue, radix: 16)
                        + " is not in the image: the trace's list of sites is not of this image")
            }
            try guest { () throws(GuestError) in
                try memory.write(site.address, site.replacement[...])
            }
        }
    }
}
