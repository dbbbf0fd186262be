internal import Guest
public import KVM
internal import Machine
public import Trace

/// Places in mid-flight that no replay would come to: in the middle of a loop of some nanoseconds in
/// ring 3, where nothing counts instructions, and a stop takes a thousand rounds' time.
///
/// The trace holds the machine as it was there: all of the CPU, and the pages that hold something
/// else than at the landmark before, which every replay comes to. (Before the first, all of RAM.) A
/// replay puts the machine there, and executes nothing of what led to it.
extension RunLoop {
    /// The machine as it stands, in completions; empty where it is too large for them.
    func storedPlace<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, changedPages: [MemoryDigest.Page]?, _ memory: borrowing GuestMemory
    ) throws(KVMError) -> [[Change]] {
        var changes = try cpu.wholeState()
        if let changedPages {
            for page in changedPages {
                guard let slot = memory.pageSlots.slot(ofPage: page.number),
                    let host = unsafe memory.host(slot: slot)
                else { continue }
                // SAFETY: a slot's host pointer covers its 4096 bytes, which are copied.
                let bytes = unsafe UnsafeRawBufferPointer(
                    start: host, count: MemoryDigest.pageBytes)
                changes.append(unsafe Self.page(page.number, bytes))
            }
        } else {
            changes.append(.noMemory)
            // SAFETY: the bytes are copied during the call.
            unsafe memory.forEachNonZeroPage { number, bytes in
                changes.append(unsafe Self.page(number, bytes))
            }
        }
        let lists = Change.split(changes)
        return lists.count <= Int(UInt16.max) ? lists : []
    }

    private static func page(_ number: UInt64, _ bytes: UnsafeRawBufferPointer) -> Change {
        .memory(
            GuestPhysicalAddress(number * UInt64(MemoryDigest.pageBytes)), unsafe Array(bytes))
    }

    /// Tells the listener of the machine as it was at the place of the interruption before.
    func store<Side: World & RunListener & ~Copyable>(
        _ completions: [[Change]], _ side: inout Side
    ) throws(ExecutionError) -> Bool {
        for changes in completions {
            guard try side.completion(changes) else { return false }
        }
        return true
    }

    /// Puts the machine where a trace has it, and injects the interrupt there.
    mutating func goToStored<CPU, Side>(
        _ stored: StoredPlace, _ landmark: Landmark, _ cpu: inout CPU, _ side: inout Side,
        memory: borrowing GuestMemory
    ) throws(ExecutionError) -> LoopOutcome?
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        guard try isSettled(&cpu) else {
            return try miss(LandmarkSearch(landmark), "the exit before it goes on", &cpu, &side)
        }
        // Where devices are run again, they knew CR8 as it is there.
        if hasLocalAPIC {
            try side.processorHolds(
                taskPriorityClass: UInt64(stored.taskPriorityClass), apicBase: cpu.apicBase)
        }
        let vector = try side.acknowledgeInterrupt()
        guard
            try side.interruption(Interruption(.external, vector: vector, landmark: landmark))
        else { return .endedByListener }
        var all: [Change] = []
        for _ in 0..<stored.rowCount {
            // Where there is none the comparison tells.
            let changes = try side.changesToMake(nil) ?? []
            guard try side.completion(changes) else { return .endedByListener }
            all += changes
        }
        try kvm { () throws(KVMError) in try cpu.setGuestDebug(.off) }
        for change in all {
            switch change {
            case .noMemory: try guest { () throws(GuestError) in try memory.clear() }
            case .memory(let address, let bytes):
                try guest { () throws(GuestError) in try memory.write(address, bytes[...]) }
            default: break
            }
        }
        let state = try kvm { () throws(KVMError) in
            try cpu.assume(all, progress: landmark.progress)
            return try MachineState(&cpu, memory)
        }
        guard state.digest == landmark.state else {
            var search = LandmarkSearch(landmark)
            search.noteRejectedHit(
                LandmarkDifference(landmark.parts, state, changedPages: nil))
            return try miss(
                search, "the machine that the trace holds is another than there", &cpu, &side)
        }
        cpu.markPages()
        isPagesMarked = true
        try kvm { () throws(KVMError) in try cpu.interrupt(vector: vector) }
        midFlight.landmarks += 1
        midFlight.storedPlaces += 1
        return nil
    }
}

extension GuestCPU {
    /// DR0–DR3, DR6, DR7.
    private static let debugWords = 6

    /// All of the CPU, as changes that put any other there; it must be settled, with nothing on its
    /// way.
    public mutating func wholeState() throws(KVMError) -> [Change] {
        let state = try checkpoint()
        var changes: [Change] = Register.allCases.map { .register($0, state.registers[$0]) }
        // What is pending rules a landmark out: no interrupt bitmap.
        for index in 0..<SystemRegisters.bitmapWord {
            changes.append(.systemWord(UInt8(index), state.system.words[index]))
        }
        for control in state.extendedControl {
            changes.append(.extendedControl(index: control.index, control.value))
        }
        changes.append(.extendedState(offset: 0, state.extended))
        for index in 0..<Self.debugWords {
            changes.append(.debugWord(UInt8(index), state.debug.words[index]))
        }
        for msr in state.msrs { changes.append(.msr(index: msr.index, msr.value)) }
        return changes
    }

    /// Puts the CPU where ``wholeState()`` was asked for; RAM is there already. It must be settled,
    /// with no breakpoint or step armed.
    ///
    /// - Parameter progress: the count of instructions there.
    public mutating func assume(_ changes: [Change], progress: UInt64?) throws(KVMError) {
        var state = try checkpoint()
        for change in changes {
            switch change {
            case .register(let register, let value): state.registers[register] = value
            case .systemWord(let index, let value) where index < SystemRegisters.bitmapWord:
                state.system.words[Int(index)] = value
            case .extendedControl(let index, let value):
                guard let at = state.extendedControl.firstIndex(where: { $0.index == index })
                else { throw .malformed("a stored place has XCR\(index), and this host has not") }
                state.extendedControl[at].value = value
            case .extendedState(0, let bytes) where bytes.count == state.extended.count:
                state.extended = bytes
            case .extendedState(_, let bytes):
                throw .malformed(
                    "a stored place has \(bytes.count) bytes of XSAVE area, this host "
                        + "\(state.extended.count)")
            case .debugWord(let index, let value) where index < Self.debugWords:
                state.debug.words[Int(index)] = value
            case .msr(let index, let value):
                guard let at = state.msrs.firstIndex(where: { $0.index == index }) else {
                    throw .malformed("a stored place has MSR \(index), and this host has not")
                }
                state.msrs[at].value = value
            case .systemWord, .debugWord, .event, .memory, .noMemory: break
            }
        }
        // No PDPTEs: KVM loads them from RAM.
        state.system.words[SystemRegisters.bitmapWord] = 0
        state.mpState = .runnable
        state.events = state.events.settled
        if let progress { state.progress = progress }
        try restore(state)
    }
}
