internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Instructions that are rewritten when they are about to be executed for the first time.
///
/// Such a stop is a numbered exit, and the rewriting its completion. Recording, a breakpoint stands
/// where ``CodeWatch`` wants one; replaying, where the tape has the next such exit: the guest
/// comes to both at the same instruction, and no other is rewritten.
extension RunLoop {
    /// Lets breakpoints stand where the next rewriting may be.
    @inline(__always)
    mutating func watchCode<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory
    ) throws(ExecutionError)
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        if codeWatch != nil, side.choosesRewritings {
            // SAFETY: the page's registers do not change before the next run.
            let rip = unsafe cpu.registersPointer.pointee.rip
            let base = unsafe cpu.systemRegistersPointer.pointee.words[0]
            if codeWatch?.isCurrent(rip: rip, codeBase: base) == true { return }
            try chooseCode(&cpu, Side.isListening, memory: memory)
        } else {
            let next = try side.nextRewriting()
            guard next != watched else { return }
            watched = next
            try stand(next.map { [$0] } ?? [], &cpu)
        }
    }

    @inline(never)
    private mutating func chooseCode<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ isListening: Bool, memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        if !isListening { try refresh(&cpu) }
        // SAFETY: the page's registers do not change before the next run.
        let registers = unsafe cpu.registersPointer.pointee
        let system = unsafe cpu.systemRegistersPointer.pointee
        guard let choice = codeWatch?.choose(registers, system, memory: memory) else { return }
        try stand(choice, &cpu)
    }

    private mutating func stand<CPU: Processor & ~Copyable>(
        _ addresses: [GuestVirtualAddress], _ cpu: inout CPU
    ) throws(ExecutionError) {
        do throws(KVMError) { try cpu.watchCode(addresses) } catch { throw .kvm(error) }
    }

    /// Whether a breakpoint of the watch was hit and there is nothing to be rewritten: ring 3, or
    /// other bytes by now. That is no exit.
    @inline(never)
    mutating func isFalseAlarm<CPU, Side>(
        at place: GuestVirtualAddress, _ cpu: inout CPU, _ side: inout Side,
        memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        guard codeWatch != nil, side.choosesRewritings, cpu.isWatched(place) else { return false }
        if !Side.isListening { try refresh(&cpu) }
        // SAFETY: the page's registers do not change before the next run.
        let system = unsafe cpu.systemRegistersPointer.pointee
        guard rewriting(at: place, system: system, memory: memory) == nil else { return false }
        codeWatch?.remove(place)
        try chooseCode(&cpu, Side.isListening, memory: memory)
        return true
    }

    /// Whether a stop of the guest is one to rewrite the instruction there.
    @inline(never)
    func isRewriting<CPU, Side>(
        _ place: GuestVirtualAddress, _ cpu: borrowing CPU, _ side: inout Side
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & ~Copyable {
        codeWatch == nil ? try side.nextRewriting() == place : cpu.isWatched(place)
    }

    /// A breakpoint of ours was hit: rewrites the instruction. False where the listener had enough.
    @inline(never)
    mutating func rewrite<CPU, Side>(
        at place: GuestVirtualAddress, _ cpu: inout CPU, _ side: inout Side,
        memory: borrowing GuestMemory, entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        if !Side.isListening { try refresh(&cpu) }
        // SAFETY (whole function): the page's registers do not change before the next run.
        let registers = unsafe cpu.registersPointer
        let system = unsafe cpu.systemRegistersPointer
        let changes = unsafe rewriting(at: place, system: system.pointee, memory: memory)
        // Another choice follows before the guest runs on.
        codeWatch?.remove(place)
        guard
            try unsafe side.exit(
                .debug(exception: Self.debugVector, pc: place.rawValue, dr6: 0, dr7: 0),
                flags: .rewrittenInstruction, rewind: 0, registers: registers, system: system,
                entered: entered, returned: returned)
        else { return false }
        guard let taken = try side.changesToMake(changes), try side.completion(changes ?? taken)
        else { return false }
        for case .memory(let address, let bytes) in taken {
            try guest { () throws(GuestError) in
                noteRewritten(address, try memory.read(address, count: bytes.count), bytes)
                try memory.write(address, bytes[...])
            }
        }
        return true
    }

    private mutating func noteRewritten(
        _ address: GuestPhysicalAddress, _ original: [UInt8], _ replacement: [UInt8]
    ) {
        let site = RewrittenSite(
            address: address, original: original, replacement: replacement)
        guard !rewrittenSites.contains(site) else { return }
        rewrittenSites.append(site)
    }

    /// The bytes that take the place of an instruction, in pieces where it crosses pages; nil where
    /// there is none to be rewritten.
    private func rewriting(
        at place: GuestVirtualAddress, system: SystemRegisters, memory: borrowing GuestMemory
    ) -> [Change]? {
        let bytes = PageWalk.read(place, count: 2, system: system, memory: memory)
        guard system.cpl != 3, bytes.count == 2, bytes[0] == RewriteTraps.escape,
            let port = traps.port(forSecondByte: bytes[1]),
            let first = PageWalk.translate(place, system: system, memory: memory),
            let second = PageWalk.translate(
                GuestVirtualAddress(place.rawValue &+ 1), system: system, memory: memory)
        else { return nil }
        if second.address.rawValue == first.address.rawValue &+ 1 {
            return [.memory(first.address, [RewriteTraps.outOpcode, port])]
        }
        return [
            .memory(first.address, [RewriteTraps.outOpcode]), .memory(second.address, [port]),
        ]
    }

    /// #DB, the exception of a breakpoint.
    private static let debugVector: UInt32 = 1
}
