internal import Guest
public import KVM
internal import Machine
internal import Trace

/// SYSCALL in ring 3 on hosts that jump to its target and stay in ring 3 (KVM-FACTS): the first
/// fetch there is a page fault of the guest's, whose frame tells what happened.
struct BrokenSyscall {
    static let pageFault: UInt8 = 14
    /// Present, from ring 3; that it is a fetch shows only where NX or SMEP is on (Intel SDM
    /// vol. 3, 4.7), and in RIP.
    private static let errorCode: UInt64 = 0x5
    private static let fetchBit: UInt64 = 0x10
    private static let frameWords = 6

    /// What carrying out the SYSCALL changes.
    let changes: [Change]

    /// Nil unless the CPU stands at the page-fault handler's first instruction because of one.
    ///
    /// What the fault left stays: its frame below ring 0's stack pointer, and CR2.
    init?(
        registers: GeneralRegisters, system: SystemRegisters, targets: SyscallTargets,
        memory: borrowing GuestMemory
    ) {
        guard system.mode == .long, system.cpl == 0 else { return nil }
        let bytes = PageWalk.read(
            GuestVirtualAddress(registers[.rsp]), count: Self.frameWords * 8, system: system,
            memory: memory)
        guard bytes.count == Self.frameWords * 8 else { return nil }
        func word(_ index: Int) -> UInt64 {
            (0..<8).reversed().reduce(0) { $0 << 8 | UInt64(bytes[index * 8 + $1]) }
        }
        // Error code, RIP, CS, RFLAGS, RSP, SS.
        guard word(0) & ~Self.fetchBit == Self.errorCode, word(1) == targets.lstar,
            word(2) & 3 == 3
        else { return nil }
        var after = system
        let selector = UInt16(truncatingIfNeeded: targets.star >> 32) & ~3
        after[.cs] = Segment(limit: ~0, selector: selector, type: 0xB, l: true, g: true)
        after[.ss] = Segment(limit: ~0, selector: selector &+ 8, type: 3, db: true, g: true)
        var changes: [Change] = []
        // RCX and R11 have been set.
        let flags = registers[.r11] & ~targets.fmask & ~FlagBits.resume | 2
        for (register, value) in [
            (Register.rsp, word(4)), (.rip, targets.lstar), (.rflags, flags),
        ] where registers[register] != value {
            changes.append(.register(register, value))
        }
        for index in 0..<SystemRegisters.wordCount where after.words[index] != system.words[index] {
            changes.append(.systemWord(UInt8(index), after.words[index]))
        }
        self.changes = changes
    }
}

extension RunLoop {
    /// EFER.SCE (Intel SDM vol. 3, 2.2.1).
    private static let syscallEnable: UInt64 = 1
    /// How often it is looked whether the handler is still where it was, in exits.
    private static let syscallInterval: UInt64 = 8
    /// How long a run that nobody listens to, where a look is a request, goes without one, in
    /// exits: a part of those it has made, since guests set SYSCALL up early, and this at most.
    private static let longestSyscallWait: UInt64 = 256

    /// Arms the breakpoint at the guest's page-fault handler once the guest has set up SYSCALL.
    /// To be called at exits.
    @inline(__always)
    mutating func watchSyscalls<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, isListenedTo: Bool, memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        if isListenedTo {
            // SAFETY: the page's registers do not change before the next run.
            let efer = unsafe cpu.systemRegistersPointer.pointee.words[
                SystemRegisters.ControlName.efer.rawValue]
            guard efer & Self.syscallEnable != 0,
                syscallHandler == nil || exitCount % Self.syscallInterval == 0
            else { return }
        } else {
            guard exitCount >= nextSyscallLook else { return }
            nextSyscallLook = exitCount + max(1, min(exitCount / 16, Self.longestSyscallWait))
            try refresh(&cpu)
        }
        try findSyscallHandler(&cpu, memory: memory)
    }

    @inline(never)
    private mutating func findSyscallHandler<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        // SAFETY: the page's registers do not change before the next run.
        let system = unsafe cpu.systemRegistersPointer.pointee
        guard system[.efer] & Self.syscallEnable != 0 else { return }
        let isLong = system[.efer] & ControlBits.longModeActive != 0
        let handler =
            isLong
            ? PageWalk.handler(of: BrokenSyscall.pageFault, system: system, memory: memory) : nil
        guard handler != syscallHandler else { return }
        syscallHandler = handler
        do throws(KVMError) {
            try cpu.setStandingBreakpoint(handler.map { GuestVirtualAddress($0) })
        } catch { throw .kvm(error) }
    }

    /// A debug exit of ours: whether it is passed over, since it is no SYSCALL.
    @inline(never)
    mutating func passesDebugExit<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool {
        guard handlerStep == nil else {
            try endHandlerStep(&cpu, memory: memory)
            return true
        }
        guard try syscall(&cpu, memory: memory) == nil else { return false }
        // RF is not honoured everywhere.
        // SAFETY: the page's registers do not change before the next run.
        handlerStep = unsafe StepTrace(
            registers: cpu.registersPointer.pointee, system: cpu.systemRegistersPointer.pointee)
        do throws(KVMError) {
            try cpu.setGuestDebug(GuestDebug(singleStep: true))
        } catch { throw .kvm(error) }
        return true
    }

    /// The step over the handler's first instruction has come to its end, or is not needed: what
    /// the instruction raised keeps nothing of it.
    @inline(never)
    mutating func endHandlerStep<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        handlerStep?.hide(memory)
        handlerStep = nil
        do throws(KVMError) { try cpu.setGuestDebug(.off) } catch { throw .kvm(error) }
    }

    /// Whether the CPU, stopped at an address, stands at a SYSCALL, which is an exit.
    func isSyscall<CPU: Processor & ~Copyable>(
        at address: GuestVirtualAddress, _ cpu: inout CPU, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool {
        guard mendsSyscall, address.rawValue == syscallHandler else { return false }
        return try syscall(&cpu, memory: memory) != nil
    }

    /// The SYSCALL that the CPU stands at, if it is one.
    func syscall<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> BrokenSyscall? {
        try kvm { () throws(KVMError) in
            try cpu.refreshSystemRegisters()
            guard let targets = try cpu.syscallTargets() else { return nil }
            // SAFETY: the page's registers do not change before the next run.
            return unsafe BrokenSyscall(
                registers: cpu.registersPointer.pointee,
                system: cpu.systemRegistersPointer.pointee, targets: targets, memory: memory)
        }
    }
}

extension GuestCPU {
    /// Where SYSCALL goes; nil where KVM does not say. The CPU must be settled.
    public mutating func syscallTargets() throws(KVMError) -> SyscallTargets? {
        try whileSettled { (cpu: inout SettledCPU) throws(KVMError) in
            let values = try cpu.readMSRs([0xC000_0081, 0xC000_0082, 0xC000_0084]).map(\.value)
            guard values.count == 3 else { return nil }
            return SyscallTargets(star: values[0], lstar: values[1], fmask: values[2])
        }
    }
}
