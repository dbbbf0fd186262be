internal import Guest
internal import KVM
internal import Machine

/// Takes back what a single step shows in the guest: RFLAGS.TF in the frame of an event that was
/// delivered while it lasted (seen on KVM without hardware virtualization; the same on VMX and SVM,
/// where the trap flag is the CPU's own). PUSHF, SYSCALL and INT n do not see it: KVM masks it.
struct StepTrace {
    private static let trapFlag: UInt64 = 1 << 8

    /// The CPU before the step.
    private let registers: GeneralRegisters
    private let system: SystemRegisters

    init(registers: GeneralRegisters, system: SystemRegisters) {
        self.registers = registers
        self.system = system
    }

    /// Whether the step may have left something: not where the guest steps itself.
    var isOurs: Bool { registers.rflags & Self.trapFlag == 0 }

    /// The guest was in ring 3.
    var isFromRing3: Bool { system.cpl == 3 }

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
            let flags = word(flagsAt, width, memory), flags & Self.trapFlag != 0,
            cs & 0xFFFF == UInt64(system[.cs].selector)
        else { return }
        // Ring 3 ran on by itself, nobody knows how far.
        guard system.cpl == 3 || rip == registers.rip & mask(width) else { return }
        if isInner, system.cpl != 3 {
            guard word(start &+ 3 * width, width, memory) == registers[.rsp] else { return }
        }
        guard
            let place = PageWalk.translate(
                GuestVirtualAddress(flagsAt &+ 1), system: system, memory: memory)
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

/// A step, and what tells whether an event was delivered while it lasted.
struct CountedStep {
    var trace: StepTrace
    /// The instruction counter before it; nil: there is none.
    var count: UInt64?
    /// An event may have been under way before it.
    var mayDeliver: Bool

    /// Clears what the step left, where it may have left something; `count`: the counter after it.
    func hide(count after: UInt64?, _ memory: borrowing GuestMemory) {
        // An instruction that faults counts, and so does the first of the handler.
        let isPlain = count.map { $0 &+ 1 == after } ?? false
        if mayDeliver || !isPlain { trace.hide(memory) }
    }
}
