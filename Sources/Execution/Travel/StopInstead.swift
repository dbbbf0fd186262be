internal import Disassembly
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Stops for what no single step stops behind, on hosts that do not step ring 3.
extension TimeMachine {
    /// What stops the guest after its next instruction where a single step would not, on hosts that
    /// do not step ring 3: an IRETQ is one with the instruction after it there, and ring 3 itself would
    /// get a #DB of its own. Nil: a step does.
    mutating func stopInstead() throws(ExecutionError) -> GuestDebug? {
        guard !stepsRing3 else { return nil }
        // SAFETY: the page's registers do not change before the next run.
        let isRing3 = unsafe machine.cpu.systemRegistersPointer.pointee.cpl == 3
        let target = isRing3 || standing == .afterKick ? nil : targetOfReturn
        guard isRing3 || target != nil else { return nil }
        if standing == .afterKick || standing == .atExit {
            // An event is delivered first, and its handler is stepped.
            let isUnderWay = try kvm { () throws(KVMError) in
                try machine.cpu.hasEventUnderWay()
            }
            if isUnderWay { return nil }
        }
        if case .ring0(let address) = target {
            return GuestDebug(breakpoints: [GuestDebug.Breakpoint(address)])
        }
        let system = machine.currentSystemRegisters
        return GuestDebug(
            breakpoints: Self.vectorsFromRing3.compactMap { vector in
                PageWalk.handler(of: vector, system: system, memory: machine.memory).map {
                    GuestDebug.Breakpoint(GuestVirtualAddress($0))
                }
            })
    }

    private enum ReturnTarget {
        case ring0(GuestVirtualAddress)
        case ring3
    }

    /// Where an IRET or SYSRET of 64-bit code leads that is next; nil where none is.
    private var targetOfReturn: ReturnTarget? {
        // SAFETY: the page's registers do not change before the next run.
        guard unsafe machine.cpu.systemRegistersPointer.pointee.mode == .long,
            let prefix = byteOfCode(at: 0)
        else { return nil }
        // IRET, REX.W IRET, and REX.W SYSRET (Intel SDM vol. 2).
        let isPrefixed = prefix & 0xF0 == 0x40
        guard prefix == 0xCF || isPrefixed, !isPrefixed || mayReturn else { return nil }
        let system = machine.currentSystemRegisters
        let registers = machine.currentRegisters
        if ReturnToRing3.isNext(registers, system: system, memory: machine.memory) {
            return .ring3
        }
        guard prefix == 0xCF || byteOfCode(at: 1) == 0xCF else { return nil }
        let slot = prefix & 0xF8 == 0x48 ? 8 : 4
        let address = PageWalk.read(
            GuestVirtualAddress(registers[.rsp]), count: slot, system: system,
            memory: machine.memory)
        guard address.count == slot else { return nil }
        return .ring0(GuestVirtualAddress(address.reversed().reduce(0) { $0 << 8 | UInt64($1) }))
    }

    /// After a REX prefix: IRET, or what SYSRET begins with.
    private var mayReturn: Bool {
        let second = byteOfCode(at: 1)
        return second == 0xCF || second == 0x0F && byteOfCode(at: 2) == 0x07
    }

    /// #PF, #GP, #UD and #DE: what programs do that leave ring 3. Interrupts are injected, which is
    /// known beforehand, and SYSCALL ends in a #PF on such a host (KVM-FACTS).
    private static let vectorsFromRing3: [UInt8] = [14, 13, 6, 0]
}
