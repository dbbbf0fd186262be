internal import Disassembly
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// How the machine came to stand where it does.
enum Standing {
    /// An exit was taken, and nothing was run since.
    case atExit
    /// A step or a breakpoint.
    case afterStop
    /// A kick, or an interrupt that was injected: an event may be under way.
    case afterKick
    /// The first instruction after ring 3 is next, with no instruction counted since the exit: a place
    /// with the same name is there already.
    case atEntry
    /// In ring 3, so many steps (``TimeMachine/ring3Steps``) after it was entered.
    case inRing3
    /// A kick where instructions are counted by stepping: nobody knows where.
    case lost
}

/// Where the machine stands, and whether it can.
extension TimeMachine {
    /// Instructions since the last exit.
    mutating func ticks() throws(ExecutionError) -> UInt64 {
        guard hasCounter else { return steps }
        let progress = try kvm { () throws(KVMError) in try machine.cpu.progress() }
        return (progress ?? spanStart) &- spanStart
    }

    /// The name of where the machine stands.
    mutating func here() throws(ExecutionError) -> Position {
        Position(
            exitCount: loop.exitCount, instructions: try ticks(),
            ring3: standing == .inRing3 ? ring3Steps : nil)
    }

    /// The linear address of the next instruction.
    var linearRIP: GuestVirtualAddress {
        // SAFETY: the page's registers do not change before the next run.
        PageWalk.linearRIP(
            unsafe machine.cpu.registersPointer.pointee.rip,
            system: unsafe machine.cpu.systemRegistersPointer.pointee)
    }

    /// Whether the machine can rest here: at an exit, or between two instructions of ring 0. Nothing
    /// is pending.
    mutating func canRest() throws(ExecutionError) -> Bool {
        switch standing {
        case .atExit, .inRing3: return true
        case .lost, .atEntry: return false
        case .afterStop, .afterKick: break
        }
        // SAFETY: the page's registers do not change before the next run.
        if unsafe machine.cpu.systemRegistersPointer.pointee.cpl == 3 { return false }
        let flags = unsafe machine.cpu.registersPointer.pointee.rflags
        // A REP that goes on has RF set (KVM-FACTS); a guest may set it by IRET.
        if flags & FlagBits.resume != 0, isInstructionRepeated { return false }
        guard standing == .afterKick else { return true }
        return try kvm { () throws(KVMError) in try !machine.cpu.hasEventUnderWay() }
    }

    /// Whether a HLT of ring 0 is next (Intel SDM vol. 2, HLT).
    var isAtHalt: Bool {
        // SAFETY: the page's registers do not change before the next run.
        unsafe machine.cpu.systemRegistersPointer.pointee.cpl == 0 && byteOfCode(at: 0) == 0xF4
    }

    /// A byte of the next instruction; nil where it is not mapped.
    func byteOfCode(at offset: UInt64) -> UInt8? {
        // SAFETY: the page's registers do not change before the next run; the host pointer covers
        // the one byte.
        guard
            let place = PageWalk.translate(
                GuestVirtualAddress(linearRIP.rawValue &+ offset),
                system: unsafe machine.cpu.systemRegistersPointer.pointee, memory: machine.memory),
            let host = unsafe machine.memory.host(place.address, count: 1)
        else { return nil }
        return unsafe host.load(as: UInt8.self)
    }

    var isInstructionRepeated: Bool {
        // SAFETY: the page's registers do not change before the next run.
        let system = unsafe machine.cpu.systemRegistersPointer.pointee
        let code = PageWalk.read(
            linearRIP, count: Disassembler.maximumLength, system: system, memory: machine.memory)
        return Disassembler(for: system).decode(code, at: linearRIP)?.isRepeated ?? false
    }

    /// What watched bytes hold; less than that many where they are not all memory.
    func bytes(of watchpoint: Watchpoint) -> [UInt8] {
        do throws(GuestError) {
            return try machine.memory.read(watchpoint.address, count: watchpoint.count)
        } catch { return [] }
    }
}
