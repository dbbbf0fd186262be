internal import Execution
internal import GDBRemote
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// A recorded run as a debugger sees it: a machine that goes both ways and cannot be changed.
struct ReplayTarget: DebugTarget, ~Copyable {
    var run: RecordedRun
    let executable: DebugExecutable?
    /// Where the debugger set what; more than one kind may stand at one place.
    private var places: [Breakpoint] = []
    /// What stands for a watchpoint of the debugger's: memory of one page each.
    private var watched: [(breakpoint: Breakpoint, parts: [Watchpoint])] = []
    private var console = ConsoleOnTheWay()

    /// IA32_KERNEL_GS_BASE (Intel SDM vol. 4, table 2-2).
    private static let kernelGSBase: UInt32 = 0xC000_0102

    /// Takes the machine as it stands.
    init(_ run: consuming RecordedRun) {
        let image = run.sources.plan?.image
        let name = run.reader.header.images.first?.name
        executable = image.flatMap { image in
            guard image.starts(with: [0x7F, 0x45, 0x4C, 0x46]) else { return nil }
            return DebugExecutable(name: name ?? "guest", bytes: image)
        }
        self.run = run
    }

    var threads: [DebugThread] { [DebugThread(id: 1, name: "vCPU 0")] }

    var currentThread: DebugThread.ID { 1 }

    /// The past is as it was.
    var isWritable: Bool { false }

    // MARK: Registers and memory

    mutating func registers(of thread: DebugThread.ID) throws(DebugError) -> TargetRegisters {
        try orSay { run throws(ExecutionError) in
            let msrs = try run.machine.msrs([Self.kernelGSBase])
            return TargetRegisters(
                general: run.machine.registers, system: run.machine.systemRegisters,
                kernelGSBase: msrs.first?.value,
                floatingPoint: FloatingPointState(try run.machine.extendedState()))
        }
    }

    mutating func setRegisters(
        _ registers: TargetRegisters, of thread: DebugThread.ID
    ) throws(DebugError) { throw .readOnly }

    mutating func read(
        _ address: UInt64, count: Int, space: MemorySpace, thread: DebugThread.ID
    ) throws(DebugError) -> [UInt8] {
        switch space {
        case .virtual: run.machine.memory(at: GuestVirtualAddress(address), count: count)
        case .physical: run.machine.memory(at: GuestPhysicalAddress(address), count: count)
        }
    }

    mutating func write(
        _ bytes: [UInt8], at address: UInt64, space: MemorySpace, thread: DebugThread.ID
    ) throws(DebugError) { throw .readOnly }

    // MARK: What stops the run

    mutating func insert(_ breakpoint: Breakpoint) throws(DebugError) {
        switch breakpoint.kind {
        case .software, .hardware:
            guard run.machine.insertBreakpoint(GuestVirtualAddress(breakpoint.address)) else {
                throw DebugError("no more than \(TimeMachine.breakpointLimit) breakpoints")
            }
            places.append(breakpoint)
        case .write, .read, .access:
            let parts = try parts(of: breakpoint)
            for (index, part) in parts.enumerated() where !run.machine.insertWatchpoint(part) {
                removeUnused(parts[..<index])
                throw DebugError("no more than \(TimeMachine.breakpointLimit) watchpoints")
            }
            watched.append((breakpoint, parts))
        }
    }

    mutating func remove(_ breakpoint: Breakpoint) throws(DebugError) {
        if breakpoint.kind.isWatchpoint {
            let gone = watched.filter { $0.breakpoint == breakpoint }.flatMap(\.parts)
            watched.removeAll { $0.breakpoint == breakpoint }
            removeUnused(gone[...])
        } else {
            places.removeAll { $0 == breakpoint }
            if !places.contains(where: { $0.address == breakpoint.address }) {
                run.machine.removeBreakpoint(GuestVirtualAddress(breakpoint.address))
            }
        }
    }

    /// Takes watchpoints away that no breakpoint of the debugger's stands for.
    private mutating func removeUnused(_ parts: ArraySlice<Watchpoint>) {
        for part in parts where !watched.contains(where: { $0.parts.contains(part) }) {
            run.machine.removeWatchpoint(part)
        }
    }

    /// The physical memory that a watchpoint's addresses mean here, page by page.
    private func parts(of breakpoint: Breakpoint) throws(DebugError) -> [Watchpoint] {
        var parts: [Watchpoint] = []
        var address = breakpoint.address
        var left = breakpoint.length
        let kind: Watchpoint.Kind =
            switch breakpoint.kind {
            case .read: .read
            case .access: .access
            default: .change
            }
        while left > 0 {
            let count = min(left, 4096 - address % 4096)
            guard let place = run.machine.physicalAddress(GuestVirtualAddress(address)),
                let part = Watchpoint(place, count: Int(count), kind: kind)
            else {
                throw DebugError(
                    "0x\(String(address, radix: 16)) is not mapped here: go to where it is "
                        + "(monitor goto), and watch it there")
            }
            parts.append(part)
            address &+= count
            left -= count
        }
        return parts
    }

    // MARK: Moving

    mutating func resume(
        _ action: ResumeAction, thread: DebugThread.ID, until interrupt: InterruptFlag
    ) throws(DebugError) -> StopEvent {
        console.begin(at: run.machine.position)
        let stop = try orSay { run throws(ExecutionError) in
            let isInterrupted = { interrupt.isRaised }
            switch action {
            case .continue: return try run.machine.resume(isInterrupted: isInterrupted)
            case .step: return try run.machine.step(isInterrupted: isInterrupted)
            case .stepWhileIn(let range):
                while true {
                    let stop = try run.machine.step(isInterrupted: isInterrupted)
                    guard case .arrived = stop,
                        range.contains(run.machine.instructionAddress.rawValue),
                        !run.machine.breakpoints.contains(run.machine.instructionAddress)
                    else { return stop }
                }
            case .reverseContinue:
                return try run.machine.reverseResume(isInterrupted: isInterrupted)
            case .reverseStep: return try run.machine.reverseStep(isInterrupted: isInterrupted)
            }
        }
        return StopEvent(reason(stop))
    }

    mutating func printed() throws(DebugError) -> [UInt8] {
        try console.printed(until: run.machine.position, run.reader)
    }

    private func reason(_ stop: TravelStop) -> GDBRemote.StopReason {
        switch stop {
        case .arrived: .step
        case .breakpoint(let address):
            .breakpoint(places.first { $0.address == address.rawValue }?.kind ?? .software)
        case .watchpoint(let hit): watched(hit)
        case .historyBegin: .historyBegin
        case .historyEnd: .historyEnd
        case .interrupted: .interrupted
        case .diverged(let divergence): .divergence(divergenceLine(divergence, run.reader))
        }
    }

    /// A touch by the address by which the debugger knows the memory.
    private func watched(_ hit: WatchHit) -> GDBRemote.StopReason {
        for (breakpoint, parts) in watched {
            var start = breakpoint.address
            for part in parts {
                if part == hit.watchpoint {
                    let offset = hit.address.rawValue &- part.address.rawValue
                    return .watchpoint(breakpoint.kind, address: start &+ offset)
                }
                start &+= UInt64(part.count)
            }
        }
        return .watchpoint(.write, address: hit.address.rawValue)
    }

    mutating func monitor(
        _ command: MonitorCommand, until interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply {
        try MonitorAnswers.answer(command, &run, interrupt)
    }

    /// Does something with the run; what fails is told to the person at the debugger.
    private mutating func orSay<Result>(
        _ body: (inout RecordedRun) throws(ExecutionError) -> Result
    ) throws(DebugError) -> Result {
        do throws(ExecutionError) { return try body(&run) } catch {
            throw DebugError("\(error)")
        }
    }
}
