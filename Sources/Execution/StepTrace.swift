internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Takes back what a single step shows in the guest: RFLAGS.TF in the frame of an event that was
/// delivered while it lasted (seen on KVM without hardware virtualization; the same on VMX and SVM,
/// where the trap flag is the CPU's own). Where KVM executes PUSHF and SYSCALL it masks it; the CPU
/// itself shows it to them.
struct StepTrace {
    /// The CPU before the step.
    private let registers: GeneralRegisters
    private let system: SystemRegisters

    init(registers: GeneralRegisters, system: SystemRegisters) {
        self.registers = registers
        self.system = system
    }

    /// Whether the step may have left something: not where the guest steps itself.
    var isOurs: Bool { registers.rflags & FlagBits.trap == 0 }

    /// Takes back whatever the step left; the CPU must be settled.
    ///
    /// - Parameters:
    ///   - counted: how many instructions the step was by the counter; nil where nothing counts.
    ///   - isFromStop: nothing was under way before it: the CPU stood at a breakpoint or step.
    func hideAll<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory, counted: UInt64?, isFromStop: Bool
    ) throws(KVMError) {
        guard isOurs else { return }
        // SAFETY: the page's registers do not change before the next run.
        let after = unsafe cpu.registersPointer.pointee
        hidePushedFlags(after, memory)
        if let flags = flagsOfSyscall(after, memory) {
            try cpu.apply([.register(.r11, flags)])
        }
        // An instruction that faults counts, and so does the first of the handler.
        let isInRing3 = unsafe cpu.systemRegistersPointer.pointee.cpl == 3 || system.cpl == 3
        guard !isFromStop || isInRing3 || counted != 1 else { return }
        hide(memory)
    }

    /// PUSHF, and the bytes of SYSCALL, behind prefixes (Intel SDM vol. 2).
    private static let pushf: UInt8 = 0x9C
    private static let syscall: [UInt8] = [0x0F, 0x05]

    /// The opcode that was executed, without a prefix of operand size or REX (Intel SDM vol. 2, 2.1).
    private func opcode(_ memory: borrowing GuestMemory) -> ArraySlice<UInt8> {
        var code = PageWalk.read(
            PageWalk.linearRIP(registers.rip, system: system), count: 4, system: system,
            memory: memory)[...]
        while let first = code.first,
            first == 0x66 || (first & 0xF0 == 0x40 && system.mode == .long)
        {
            code = code.dropFirst()
        }
        return code
    }

    /// The next instruction is SYSCALL, which shows a step in R11 where the CPU executes it itself.
    func isSyscall(_ memory: borrowing GuestMemory) -> Bool {
        opcode(memory).starts(with: Self.syscall)
    }

    /// Clears TF in what PUSHF pushed.
    func hidePushedFlags(_ after: GeneralRegisters, _ memory: borrowing GuestMemory) {
        guard isOurs else { return }
        let pushed = registers[.rsp] &- after[.rsp]
        guard pushed == 8 || pushed == 4 || pushed == 2 else { return }
        var top = after[.rsp]
        switch system.mode {
        case .long: break
        case .real, .protected16: top = stack(of: top & 0xFFFF)
        case .protected32, .compatibility: top = stack(of: top & 0xFFFF_FFFF)
        }
        // A look at what was pushed first: it is short.
        guard let flags = word(top, 2, memory), flags & FlagBits.trap != 0,
            opcode(memory).first == Self.pushf
        else { return }
        clearTrapFlag(at: top, flags, memory)
    }

    /// What R11 is to hold behind SYSCALL; nil where the step does not show there.
    private func flagsOfSyscall(
        _ after: GeneralRegisters, _ memory: borrowing GuestMemory
    ) -> UInt64? {
        guard after[.rcx] == registers.rip &+ 2, after[.r11] & FlagBits.trap != 0,
            isSyscall(memory)
        else { return nil }
        return after[.r11] & ~FlagBits.trap
    }

    /// Clears TF in the frame, if one was pushed.
    func hide(_ memory: borrowing GuestMemory) {
        guard isOurs else { return }
        switch system.mode {
        case .real: hide(at: stack(of: registers[.rsp] & 0xFFFF), 2, isInner: false, memory)
        case .protected16, .protected32:
            hideLegacy(memory)
        case .compatibility, .long:
            for top in [registers[.rsp] & ~15] + stacksOfTask(memory) {
                hide(at: top, 8, isInner: true, memory)
            }
        }
    }

    private func hideLegacy(_ memory: borrowing GuestMemory) {
        for width in [4, 2] as [UInt64] {
            if system.cpl == 0 {
                hide(at: stack(of: registers[.rsp] & 0xFFFF_FFFF), width, isInner: false, memory)
            } else if let top = word(system[.tr].base &+ 4, 4, memory) {
                hide(at: top, width, isInner: true, memory)
            }
        }
    }

    private func stack(of pointer: UInt64) -> UInt64 { system[.ss].base &+ pointer }

    /// RSP0 and the seven interrupt stacks of the 64-bit TSS (Intel SDM vol. 3, 8.7).
    private func stacksOfTask(_ memory: borrowing GuestMemory) -> [UInt64] {
        let base = system[.tr].base
        var tops: [UInt64] = []
        for offset in [4] + Array(stride(from: 36 as UInt64, to: 92, by: 8)) {
            guard let top = word(base &+ offset, 8, memory), top != 0 else { continue }
            tops.append(top & ~15)
        }
        return tops
    }

    /// Looks for a frame below `top`: return address, code segment, flags, and for another stack
    /// its pointer and segment.
    private func hide(
        at top: UInt64, _ width: UInt64, isInner: Bool, _ memory: borrowing GuestMemory
    ) {
        let start = top &- width * (isInner ? 5 : 3)
        let flagsAt = start &+ 2 * width
        guard let rip = word(start, width, memory), let cs = word(start &+ width, width, memory),
            let flags = word(flagsAt, width, memory), flags & FlagBits.trap != 0,
            cs & 0xFFFF == UInt64(system[.cs].selector)
        else { return }
        // Ring 3 ran on by itself, nobody knows how far.
        guard system.cpl == 3 || rip == registers.rip & mask(width) else { return }
        if isInner, system.cpl != 3 {
            guard word(start &+ 3 * width, width, memory) == registers[.rsp] else { return }
        }
        clearTrapFlag(at: flagsAt, flags, memory)
    }

    private func clearTrapFlag(
        at address: UInt64, _ flags: UInt64, _ memory: borrowing GuestMemory
    ) {
        guard
            let place = PageWalk.translate(
                GuestVirtualAddress(address &+ 1), system: system, memory: memory)
        else { return }
        do throws(GuestError) {
            let byte = UInt8(truncatingIfNeeded: flags >> 8) & ~1
            try memory.write(place.address, [byte][...])
        } catch {}
    }

    private func mask(_ width: UInt64) -> UInt64 { width == 8 ? .max : (1 << (width * 8)) - 1 }

    private func word(
        _ address: UInt64, _ width: UInt64, _ memory: borrowing GuestMemory
    ) -> UInt64? {
        let bytes = PageWalk.read(
            GuestVirtualAddress(address), count: Int(width), system: system, memory: memory)
        guard bytes.count == Int(width) else { return nil }
        return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
}
