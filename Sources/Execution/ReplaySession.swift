internal import Guest
internal import KVM
public import Machine
public import Trace

/// How a replay is to be done.
public struct ReplayOptions: Sendable {
    /// Stops after the exit with this number; nil: goes to the end.
    public var until: UInt64?
    /// Replays on a host whose behaviour differs from the recording's.
    public var isForced = false

    /// To the end, on a host that matches.
    public init() {}
}

/// What a replay found.
public struct ReplayOutcome: Sendable {
    /// The verdict on the whole.
    public enum Verdict: Sendable {
        /// Every exit, the final registers and all of RAM are those of the recording.
        case identical
        /// Every exit is, up to where the replay was asked to stop.
        case identicalSoFar
        /// Every exit that was recorded is; the recording itself has no end.
        case identicalButIncomplete
        /// Every exit is; the recording ended in mid-flight, where state cannot be compared.
        case identicalToLastExit
        /// The user ended the replay; every exit until then was identical.
        case stopped
        /// Something differs.
        case diverged(ReplayDivergence)
    }

    /// The verdict.
    public var verdict: Verdict
    /// What came of the run.
    public var report: RunReport
    /// Exits that were compared and found equal.
    public var verifiedExits: UInt64
}

/// A recorded guest that runs again, from its trace alone: `vmtape replay`.
public struct ReplaySession: ~Copyable {
    private var machine: GuestMachine
    private var side: Tape
    private let reader: TraceReader
    private let behaviour: HostBehaviour
    private let options: ReplayOptions
    /// Ways in which this host differs from the recording's; empty unless forced.
    public let hostDifferences: [HostFacts.Difference]
    /// Where others ask for an end.
    public let stop = StopRequest()
    /// How far the replay is, for other threads.
    public let progress = ReplayProgress()

    /// Creates the machine that the trace describes, and loads the guest that it holds.
    ///
    /// - Throws: ``ExecutionError/cannotReplay(_:)`` where this host does not match, or the trace
    ///   does not hold what a replay needs.
    public init(
        host: borrowing Host, reader: TraceReader, options: ReplayOptions = ReplayOptions()
    ) throws(ExecutionError) {
        let differences = host.probe.facts.behavioursThatDiffer(from: reader.header.hostFacts)
        if !options.isForced, !differences.isEmpty {
            throw .cannotReplay(Self.refusal(differences, reader.path))
        }
        let plan = try Self.plan(reader)
        let machine = try GuestMachine(
            hypervisor: host.hypervisor, plan: plan, cpuid: reader.header.requestedCPUID,
            rewriting: Rewriting(reader.header),
            msrFilter: MSRFilterProperty.ranges(reader.header.machine))
        if !options.isForced,
            let leaf = Self.firstDifference(reader.header.observedCPUID, machine.observedCPUID)
        {
            throw .cannotReplay(
                "\(reader.path): CPUID leaf 0x\(String(leaf, radix: 16)) shows guests something "
                    + "else here than where it was recorded (--force replays anyway)")
        }
        let cursor = try trace { () throws(TraceError) in try reader.tape() }
        let tape = try Tape(
            cursor, file: reader.path, registers: machine.registers,
            system: machine.systemRegisters, progress: progress)
        self.machine = machine
        side = tape
        self.reader = reader
        self.options = options
        behaviour = host.probe.behaviour
        hostDifferences = differences
    }

    private static func refusal(_ differences: [HostFacts.Difference], _ path: String) -> String {
        let shown = differences.prefix(3).map {
            "\($0.name) is \($0.here) here and \($0.there) there"
        }
        let more = differences.count > 3 ? " and \(differences.count - 3) more" : ""
        return "\(path): recorded on a host that behaves differently: "
            + shown.joined(separator: "; ") + more + " (--force replays anyway)"
    }

    private static func plan(_ reader: TraceReader) throws(ExecutionError) -> LoadPlan {
        let images = reader.header.images
        guard !images.isEmpty else {
            throw .cannotReplay(
                "\(reader.path): the trace holds no guest image, and cannot be replayed without")
        }
        var records: [GuestImageRecord] = []
        for (index, image) in images.enumerated() {
            let bytes = try trace { () throws(TraceError) in try reader.imageBytes(index) }
            records.append(
                GuestImageRecord(
                    name: image.name, kind: image.kind, bytes: bytes,
                    properties: image.properties.map { .init(key: $0.key, value: $0.value) }))
        }
        do throws(GuestError) { return try LoadPlan(records: records) } catch {
            throw .cannotReplay("\(reader.path): \(error)")
        }
    }

    /// Replays until the tape ends, something differs, or somebody asks for an end.
    public consuming func run(
        _ callbacks: SessionCallbacks
    ) throws(ExecutionError) -> ReplayOutcome {
        if let mismatch = side.mismatch { return try atStart(mismatch) }
        let limit = options.until.map { $0 == .max ? .max : $0 + 1 } ?? .max
        let report = try machine.runSupervised(
            behaviour: behaviour, exitLimit: limit,
            cpu: try VCPUPlacement.choose(as: reader.header), stop: stop,
            supervision: Supervisor.Configuration(), callbacks: callbacks, side: &side)
        var verified = report.exitCount
        let verdict: ReplayOutcome.Verdict
        switch report.outcome {
        case .ended(let ending):
            if ending.isInMidFlight {
                verdict = .identicalToLastExit
            } else if let divergence = try compareEnd(report) {
                verdict = .diverged(divergence)
            } else {
                verdict = .identical
            }
        case .endOfTape: verdict = .identicalButIncomplete
        case .exitLimit: verdict = .identicalSoFar
        case .stopped: verdict = .stopped
        case .endedByListener where side.miss != nil: verdict = .diverged(missed(report))
        case .endedByListener:
            guard let mismatch = side.mismatch, !mismatch.isTapeEnd else {
                // The recording was cut between an exit and its answer.
                verified = report.exitCount
                verdict = .identicalButIncomplete
                break
            }
            var divergence = ReplayDivergence(
                mismatch, place: .exit, exitNumber: report.exitCount, reader: reader,
                registers: report.registers, system: report.systemRegisters)
            divergence.causes = causes(report.systemRegisters)
            verdict = .diverged(divergence)
        }
        return ReplayOutcome(verdict: verdict, report: report, verifiedExits: verified)
    }

    /// The report of a landmark that was not found.
    private func missed(_ report: RunReport) -> ReplayDivergence {
        var divergence = ReplayDivergence(place: .exit, exitNumber: report.exitCount)
        divergence.actual = nil
        divergence.causes = (side.miss?.lines ?? []) + causes(report.systemRegisters)
        return divergence
    }

    private func atStart(_ mismatch: TapeMismatch) throws(ExecutionError) -> ReplayOutcome {
        var divergence = ReplayDivergence(
            mismatch, place: .start, exitNumber: 0, reader: reader,
            registers: machine.registers, system: machine.systemRegisters)
        divergence.causes = causes(machine.systemRegisters)
        return ReplayOutcome(
            verdict: .diverged(divergence),
            report: RunReport(
                outcome: .endedByListener, exitCount: 0, nanoseconds: 0,
                registers: machine.registers, systemRegisters: machine.systemRegisters),
            verifiedExits: 0)
    }

    /// Compares the end; nil where it is equal.
    private mutating func compareEnd(
        _ report: RunReport
    ) throws(ExecutionError) -> ReplayDivergence? {
        let memory = machine.memory.digest()
        guard try !side.compareEnd(EndRecord(report), memory: memory.digest) else { return nil }
        guard let mismatch = side.mismatch else { return nil }
        var divergence = ReplayDivergence(
            mismatch, place: .end, exitNumber: report.exitCount, reader: reader,
            registers: report.registers, system: report.systemRegisters)
        if let recorded = try trace({ () throws(TraceError) in try reader.memoryDigest() }) {
            divergence.differingPages = recorded.differingPages(from: memory)
        }
        divergence.causes = causes(report.systemRegisters)
        return divergence
    }

    /// What usually makes a replay differ, as far as it applies to this trace and host.
    private func causes(_ system: SystemRegisters) -> [String] {
        var causes: [String] = []
        for difference in hostDifferences.prefix(4) {
            causes.append(
                "this host behaves differently: \(difference.name) is "
                    + "\(difference.here) here and \(difference.there) in the recording")
        }
        if let leaf = Self.firstDifference(
            reader.header.observedCPUID, machine.observedCPUID)
        {
            causes.append(
                "CPUID leaf 0x\(String(leaf, radix: 16)) shows the guest something else here")
        }
        if reader.header.machine.properties.contains(Property("tsc", "native")) {
            causes.append(
                "the guest read the time-stamp counter: RDTSC is not recorded (tsc native)")
        } else {
            causes += suspects(system)
            if !machine.isCodeKnown,
                !reader.header.machine.properties.contains(Rewriting.watchProperty)
            {
                causes.append(
                    "the guest read the time-stamp counter: RDTSC was recorded only in the code of "
                        + "ELF images, and this image is "
                        + "\(reader.header.images.first?.kind ?? "none")")
            }
        }
        if system.cpl == 3, reader.header.hostFacts["kvm.cpuid.ring3-honoured"] == "no" {
            causes.append(
                "CPUID in ring 3 shows the host's own CPU, which KVM cannot hide on this host")
        }
        return causes
    }

    /// Instructions before the place of a divergence that read the outside world unseen.
    private func suspects(_ system: SystemRegisters) -> [String] {
        let end = PageWalk.linearRIP(machine.currentRegisters.rip, system: system).rawValue
        let history = min(end, UInt64(HiddenInputs.suspectHistory))
        let code = machine.bytes(
            at: GuestVirtualAddress(end &- history), count: Int(history))
        guard code.count == Int(history) else { return [] }
        return HiddenInputs.suspects(in: code, endingAt: end, system: system)
    }

    /// The first leaf in which two tables differ, nil where they are equal.
    private static func firstDifference(_ a: [CPUIDEntry], _ b: [CPUIDEntry]) -> UInt32? {
        for (mine, theirs) in zip(a, b) where mine != theirs { return mine.function }
        guard a.count != b.count else { return nil }
        return (a.count > b.count ? a : b)[min(a.count, b.count)].function
    }
}
