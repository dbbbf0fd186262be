public import Machine

/// An answer that a probe may fail to give.
public enum Probed: String, Sendable {
    /// It does.
    case yes
    /// It does not.
    case no
    /// The probe could not tell.
    case unknown

    init(_ flag: Bool) { self = flag ? .yes : .no }
}

/// Where RIP stands in an exit, seen from the instruction that caused it.
public enum RIPPhase: String, Sendable {
    /// At the instruction.
    case at
    /// After the instruction.
    case after
    /// The probe could not tell.
    case unknown
}

/// Where RIP stands, by kind of exit, in one mode of the CPU.
public struct RIPPhases: Equatable, Sendable {
    /// OUT to an immediate port.
    public var outImmediate = RIPPhase.unknown
    /// OUT to the port in DX.
    public var outDX = RIPPhase.unknown
    /// IN.
    public var input = RIPPhase.unknown
    /// INS, one access.
    public var ins = RIPPhase.unknown
    /// OUTS, one access.
    public var outs = RIPPhase.unknown
    /// REP INS, the first exit of several accesses.
    public var repIns = RIPPhase.unknown
    /// REP OUTS, the first exit of several accesses.
    public var repOuts = RIPPhase.unknown
    /// A read of an address without memory.
    public var mmioRead = RIPPhase.unknown
    /// A write to an address without memory.
    public var mmioWrite = RIPPhase.unknown
    /// RDMSR that the filter gives away.
    public var rdmsr = RIPPhase.unknown
    /// WRMSR that the filter gives away.
    public var wrmsr = RIPPhase.unknown
    /// HLT.
    public var hlt = RIPPhase.unknown

    /// All of them with their names, in a fixed order.
    static var named: [(String, KeyPath<RIPPhases, RIPPhase>)] {
        [
            ("io-out", \.outImmediate), ("io-out-dx", \.outDX), ("io-in", \.input),
            ("ins", \.ins), ("outs", \.outs), ("rep-ins", \.repIns), ("rep-outs", \.repOuts),
            ("mmio-read", \.mmioRead), ("mmio-write", \.mmioWrite), ("rdmsr", \.rdmsr),
            ("wrmsr", \.wrmsr), ("hlt", \.hlt),
        ]
    }
}

/// What KVM was seen to do on this host, by running tiny guests; see ``HostProbe``.
public struct HostBehaviour: Equatable, Sendable {
    /// RIP in exits from long mode, ring 0.
    public var ring0 = RIPPhases()
    /// RIP in exits from long mode, ring 3 (no RDMSR, WRMSR, HLT there).
    public var ring3 = RIPPhases()
    /// RIP in exits from real mode.
    public var real = RIPPhases()

    /// Registers in the run page equal those of KVM_GET_REGS and KVM_GET_SREGS.
    public var syncRegisters = Probed.unknown
    /// Registers written through the run page after an OUT are what ring 0 goes on with.
    public var syncWriteAfterOutRing0 = Probed.unknown
    /// The same in ring 3.
    public var syncWriteAfterOutRing3 = Probed.unknown
    /// KVM_CAP_EXIT_ON_EMULATION_FAILURE can be turned on.
    public var exitOnEmulationFailure = Probed.unknown

    /// Hardware breakpoints stop ring 0.
    public var breakpointRing0 = Probed.unknown
    /// Hardware breakpoints stop ring 3.
    public var breakpointRing3 = Probed.unknown
    /// Write watchpoints stop ring 0.
    public var watchpointRing0 = Probed.unknown
    /// Write watchpoints stop ring 3.
    public var watchpointRing3 = Probed.unknown
    /// Watchpoints on reads and writes stop ring 0 at a read.
    public var accessWatchpointRing0 = Probed.unknown
    /// Watchpoints on reads and writes stop ring 3 at a read.
    public var accessWatchpointRing3 = Probed.unknown
    /// Single-step stops ring 0 after one instruction.
    public var singleStepRing0 = Probed.unknown
    /// Single-step stops ring 3 after one instruction.
    public var singleStepRing3 = Probed.unknown
    /// INT3 exits from ring 0 on request.
    public var softwareBreakpointRing0 = Probed.unknown
    /// INT3 exits from ring 3 on request.
    public var softwareBreakpointRing3 = Probed.unknown
    /// With the interrupt table out of force, what ring 3 raises (INT3, a step's #DB) comes out as
    /// a shutdown that leaves CPU and memory as they were, to go on from.
    public var exceptionStopsRing3 = Probed.unknown
    /// RFLAGS.RF lets ring 0 pass a breakpoint.
    public var resumeFlag = Probed.unknown

    /// CPUID in ring 0 shows the table that was set.
    public var cpuidRing0 = Probed.unknown
    /// CPUID in ring 3 shows the table that was set.
    public var cpuidRing3 = Probed.unknown
    /// Bits of leaf 1 ECX that ring 0 sees though the table has them clear; nil: not known.
    public var unhideableLeaf1ECX: UInt32?
    /// Bits of leaf 1 EDX that ring 0 sees though the table has them clear; nil: not known.
    public var unhideableLeaf1EDX: UInt32?

    /// SYSCALL in ring 3 enters ring 0.
    public var syscall = Probed.unknown
    /// INT3 in long mode, ring 0, delivers #BP.
    public var int3Ring0 = Probed.unknown
    /// INT n in ring 3 reaches its handler.
    public var intNRing3 = Probed.unknown
    /// KVM_INTERRUPT is delivered in long mode, and IRETQ returns.
    public var interruptInjection = Probed.unknown

    /// The statistic `insn_emulation` counts ring 0's instructions one by one.
    public var instructionCounter = Probed.unknown
    /// The dirty log shows what the guest wrote.
    public var dirtyLog = Probed.unknown
    /// The MSR filter gives RDMSR and WRMSR to user space, and the answer arrives.
    public var msrFilter = Probed.unknown
    /// `immediate_exit` ends a run before its first instruction.
    public var immediateExit = Probed.unknown
    /// Exits that a page-crossing 8-byte MMIO write takes; 0: not known.
    public var pageCrossingMMIOExits = 0
    /// Accesses in the first exit of a REP INSB of 8; 0: not known.
    public var repInsAccesses = 0
    /// Accesses in the first exit of a REP OUTSB of 8; 0: not known.
    public var repOutsAccesses = 0
    /// The size of the XSAVE area in bytes; 0: not known.
    public var xsaveByteCount = 0
    /// Instructions that ring 0 cannot execute here, by name, in the order of the table.
    public var unemulated: [String] = []
}

extension HostBehaviour {
    /// The behaviour as facts, in a fixed order. What a recording can depend on has weight
    /// ``Machine/HostFact/Weight/behaviour``.
    public var facts: [HostFact] {
        var facts: [HostFact] = []
        for (prefix, phases) in [("", ring0), ("ring3.", ring3), ("real.", real)] {
            for (name, path) in RIPPhases.named {
                // RDMSR, WRMSR and HLT do not exist in ring 3.
                if prefix == "ring3.", name == "rdmsr" || name == "wrmsr" || name == "hlt" {
                    continue
                }
                facts.append(
                    HostFact("kvm.rip.\(prefix)\(name)", phases[keyPath: path].rawValue, .behaviour)
                )
            }
        }
        let answers: [(String, Probed, HostFact.Weight)] = [
            ("kvm.sync-registers", syncRegisters, .description),
            ("kvm.sync-registers.write-after-out", syncWriteAfterOutRing0, .behaviour),
            ("kvm.sync-registers.write-after-out-ring3", syncWriteAfterOutRing3, .behaviour),
            ("kvm.exit-on-emulation-failure", exitOnEmulationFailure, .behaviour),
            ("kvm.debug.breakpoint-ring0", breakpointRing0, .description),
            ("kvm.debug.breakpoint-ring3", breakpointRing3, .description),
            ("kvm.debug.watchpoint-ring0", watchpointRing0, .description),
            ("kvm.debug.watchpoint-ring3", watchpointRing3, .description),
            ("kvm.debug.access-watchpoint-ring0", accessWatchpointRing0, .description),
            ("kvm.debug.access-watchpoint-ring3", accessWatchpointRing3, .description),
            ("kvm.debug.single-step-ring0", singleStepRing0, .description),
            ("kvm.debug.single-step-ring3", singleStepRing3, .description),
            ("kvm.debug.int3-ring0", softwareBreakpointRing0, .description),
            ("kvm.debug.int3-ring3", softwareBreakpointRing3, .description),
            ("kvm.debug.exception-stops-ring3", exceptionStopsRing3, .description),
            ("kvm.debug.rf-honoured", resumeFlag, .description),
            ("kvm.cpuid.ring0-honoured", cpuidRing0, .behaviour),
            ("kvm.cpuid.ring3-honoured", cpuidRing3, .behaviour),
            ("kvm.syscall-enters-ring0", syscall, .behaviour),
            ("kvm.int3-ring0", int3Ring0, .behaviour),
            ("kvm.int-n-ring3", intNRing3, .behaviour),
            ("kvm.interrupt-injection", interruptInjection, .behaviour),
            ("kvm.instruction-counter", instructionCounter, .description),
            ("kvm.dirty-log", dirtyLog, .description),
            ("kvm.msr-filter", msrFilter, .behaviour),
            ("kvm.immediate-exit", immediateExit, .description),
        ]
        facts += answers.map { HostFact($0.0, $0.1.rawValue, $0.2) }
        facts += [
            HostFact("vmtape.mid-flight.ring0", midFlightRing0, .description),
            HostFact("vmtape.mid-flight.ring3", midFlightRing3, .description),
        ]
        func count(_ number: Int) -> String { number == 0 ? "unknown" : "\(number)" }
        func mask(_ bits: UInt32?) -> String {
            guard let bits else { return "unknown" }
            let digits = String(bits, radix: 16)
            return "0x" + String(repeating: "0", count: 8 - digits.count) + digits
        }
        facts += [
            HostFact("kvm.cpuid.leaf1-ecx-unhideable", mask(unhideableLeaf1ECX), .behaviour),
            HostFact("kvm.cpuid.leaf1-edx-unhideable", mask(unhideableLeaf1EDX), .behaviour),
            HostFact("kvm.mmio.page-crossing-exits", count(pageCrossingMMIOExits), .behaviour),
            HostFact("kvm.io.rep-ins-accesses", count(repInsAccesses), .behaviour),
            HostFact("kvm.io.rep-outs-accesses", count(repOutsAccesses), .behaviour),
            HostFact("kvm.xsave-bytes", count(xsaveByteCount), .behaviour),
            HostFact(
                "kvm.unemulated", unemulated.isEmpty ? "none" : unemulated.joined(separator: ","),
                .behaviour),
        ]
        return facts
    }

    /// How a replay finds the place of an interrupt between two exits in ring 0.
    private var midFlightRing0: String {
        guard breakpointRing0 == .yes, singleStepRing0 == .yes else { return "no" }
        return instructionCounter == .yes
            ? "breakpoints and steps by the instruction counter" : "breakpoints and steps"
    }

    /// The same in ring 3.
    private var midFlightRing3: String {
        if breakpointRing3 == .yes { return "breakpoints and steps" }
        guard exceptionStopsRing3 == .yes, instructionCounter == .yes else {
            return "by the machine as it was there, from the trace"
        }
        return "at the ends of loops, by exceptions without an interrupt table; in a loop without "
            + "end by the machine as it was there, from the trace"
    }
}
