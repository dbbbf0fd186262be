import GDBRemote
import Machine

/// A recording to travel in: ``ToyProgram`` from its start to its end, every moment of it kept.
struct ToyMachine: DebugTarget, ~Copyable {
    /// The machine before each instruction, the last of them at the end.
    private var moments: [ToyCPU]
    private var now = 0
    private let isSpinning: Bool
    var breakpoints: Set<Breakpoint> = []
    var isWritable = false
    var executable: DebugExecutable? = DebugExecutable(name: "toy", bytes: ToyProgram.elf)
    var architecture: DebugArchitecture?
    /// Registers that a test sets and the CPU does not have.
    var system: SystemRegisters?
    var floatingPoint: FloatingPointState?
    var kernelGSBase: UInt64?
    private var segmentBase: UInt64 = 0
    /// Raised while the machine spins.
    var running: InterruptFlag?
    /// What `resume` throws next.
    var failure: DebugError?
    /// What `insert` throws.
    var refusal: DebugError?
    /// What the next stop says beside its reason.
    var note = ""
    /// What was asked with `monitor`.
    var asked: [MonitorCommand] = []

    /// - Parameter spins: a machine that runs until it is interrupted, in either direction.
    init(spins: Bool = false) {
        isSpinning = spins
        var cpu = ToyCPU(startingAt: spins ? ToyProgram.spin : ToyProgram.start)
        moments = [cpu]
        while !spins {
            cpu.step()
            if cpu.isHalted { break }
            moments.append(cpu)
        }
    }

    /// Makes RIP an offset in a segment: the code stays where it is.
    mutating func moves(by base: UInt64) { segmentBase = base }

    var position: Position { Position(exitCount: 0, instructions: UInt64(now)) }
    var cpu: ToyCPU { moments[now] }

    let threads = [DebugThread(id: 1, name: "vCPU 0"), DebugThread(id: 2, name: "vCPU 1")]
    let currentThread: DebugThread.ID = 1

    func registers(of thread: DebugThread.ID) throws(DebugError) -> TargetRegisters {
        var general = cpu.registers
        general.rip &-= segmentBase
        return TargetRegisters(
            general: general, system: system, kernelGSBase: kernelGSBase,
            floatingPoint: floatingPoint)
    }

    mutating func setRegisters(
        _ registers: TargetRegisters, of thread: DebugThread.ID
    ) throws(DebugError) {
        moments[now].registers = registers.general
        system = registers.system
        kernelGSBase = registers.kernelGSBase
        floatingPoint = registers.floatingPoint
    }

    /// Physical addresses count from the start of memory.
    private func index(_ address: UInt64, _ space: MemorySpace) -> Int? {
        let offset = space == .physical ? address : address &- ToyCPU.memoryBase
        return offset < UInt64(cpu.memory.count) ? Int(offset) : nil
    }

    func read(
        _ address: UInt64, count: Int, space: MemorySpace, thread: DebugThread.ID
    ) throws(DebugError) -> [UInt8] {
        guard let start = index(address, space) else { return [] }
        return Array(cpu.memory[start...].prefix(count))
    }

    mutating func write(
        _ bytes: [UInt8], at address: UInt64, space: MemorySpace, thread: DebugThread.ID
    ) throws(DebugError) {
        guard let start = index(address, space), start + bytes.count <= cpu.memory.count else {
            throw DebugError("nothing is mapped there")
        }
        moments[now].memory.replaceSubrange(start..<start + bytes.count, with: bytes)
    }

    mutating func insert(_ breakpoint: Breakpoint) throws(DebugError) {
        if let refusal { throw refusal }
        precondition(breakpoints.insert(breakpoint).inserted, "there already")
    }

    mutating func remove(_ breakpoint: Breakpoint) throws(DebugError) {
        precondition(breakpoints.remove(breakpoint) != nil, "never inserted")
    }

    // MARK: Moving

    mutating func resume(
        _ action: ResumeAction, thread: DebugThread.ID, until interrupt: InterruptFlag
    ) throws(DebugError) -> StopEvent {
        if let failure {
            self.failure = nil
            throw failure
        }
        if isSpinning, action == .continue || action == .reverseContinue {
            running?.raise()
            while !interrupt.isRaised {}
            return StopEvent(.interrupted, thread: thread, note: note)
        }
        return StopEvent(move(action, interrupt), thread: thread, note: note)
    }

    private mutating func move(_ action: ResumeAction, _ interrupt: InterruptFlag) -> StopReason {
        while true {
            if interrupt.isRaised { return .interrupted }
            if action.isReverse {
                if now == 0 { return .historyBegin }
                now -= 1
            } else {
                if now == moments.count - 1 { return .historyEnd }
                now += 1
            }
            // What was executed, in either direction, leaves its traces in the later moment.
            if let hit = watched(moments[action.isReverse ? now + 1 : now]) { return hit }
            let address = cpu.registers.rip
            if let hit = breakpoints.first(where: {
                !$0.kind.isWatchpoint && $0.address == address
            }), action != .step, action != .reverseStep {
                return .breakpoint(hit.kind)
            }
            switch action {
            case .step, .reverseStep: return .step
            case .stepWhileIn(let range) where !range.contains(address): return .step
            default: break
            }
        }
    }

    private func watched(_ after: ToyCPU) -> StopReason? {
        for breakpoint in breakpoints where breakpoint.kind.isWatchpoint {
            let touched = [
                breakpoint.kind != .read ? after.lastWrite : nil,
                breakpoint.kind != .write ? after.lastRead : nil,
            ].compactMap { $0 }
            for start in touched {
                guard let address = breakpoint.firstShared(with: start, count: 8) else { continue }
                return .watchpoint(breakpoint.kind, address: address)
            }
        }
        return nil
    }

    // MARK: Monitor

    mutating func monitor(
        _ command: MonitorCommand, until interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply {
        asked.append(command)
        switch command {
        case .when(_): return MonitorReply("\(position)")
        case .goTo(.end):
            now = moments.count - 1
            return MonitorReply("at \(position)\n", didMove: true)
        case .goTo(.position(let position)):
            guard position.exitCount == 0, position.instructions < UInt64(moments.count) else {
                throw DebugError("\(position) is beyond the end")
            }
            now = Int(position.instructions)
            return MonitorReply("at \(position)\n", didMove: true)
        case .info: return MonitorReply(String(repeating: "a line of text\n", count: 1000))
        default: throw DebugError("the toy cannot do this")
        }
    }
}
