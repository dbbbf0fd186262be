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
    /// The host CPU that the guest runs on; nil: the recording's, where this host has it.
    public var cpu: Int?
    /// Counts instructions by the host's counter, where it has one; without it landmarks are found by
    /// breakpoints alone.
    public var usesCounter = true

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
        let machine = try GuestMachine.replaying(
            reader, host: host, isForced: options.isForced, differences: differences)
        let cursor = try trace { () throws(TraceError) in try reader.tape() }
        let tape = try Tape(
            cursor, file: reader.path, registers: machine.registers,
            system: machine.systemRegisters, progress: progress)
        self.machine = machine
        side = tape
        self.reader = reader
        self.options = options
        behaviour = host.probe.behaviour.counting(options.usesCounter)
        hostDifferences = differences
    }

    /// Replays until the tape ends, something differs, or somebody asks for an end.
    public consuming func run(
        _ callbacks: SessionCallbacks
    ) throws(ExecutionError) -> ReplayOutcome {
        if let mismatch = side.mismatch { return try atStart(mismatch) }
        let limit = options.until.map { $0 == .max ? .max : $0 + 1 } ?? .max
        let report = try machine.runSupervised(
            behaviour: behaviour, exitLimit: limit,
            cpu: try VCPUPlacement.choose(options.cpu, as: reader.header), stop: stop,
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
        if let leaf = machine.firstDifferentCPUIDLeaf(from: reader.header) {
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
        if causes.isEmpty {
            causes.append(
                "nothing that is known to make runs differ: the trace was changed, or KVM or vmtape "
                    + "does something else than when it was recorded (vmtape verify, vmtape info)")
        }
        return causes
    }

    /// Instructions before the place of a divergence that read the outside world unseen.
    private func suspects(_ system: SystemRegisters) -> [String] {
        let end = system.linearAddress(ofCode: machine.currentRegisters.rip).rawValue
        let history = min(end, UInt64(HiddenInputs.suspectHistory))
        let code = machine.bytes(
            at: GuestVirtualAddress(end &- history), count: Int(history))
        guard code.count == Int(history) else { return [] }
        return HiddenInputs.suspects(in: code, endingAt: end, system: system)
    }
}
