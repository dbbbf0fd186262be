/// A machine that a debugger can look at and move about in time: what the server needs of a replay.
///
/// All calls come from the thread that serves the debugger, one at a time. A machine stands between
/// two instructions whenever no call is under way.
public protocol DebugTarget: ~Copyable {
    /// The vCPUs, at least one; a debugger sees each as a thread.
    var threads: [DebugThread] { get }

    /// The vCPU that a debugger looks at first, and that the last ``resume(_:thread:until:)``
    /// stopped on.
    var currentThread: DebugThread.ID { get }

    /// Whether registers and memory may be written: only where the session went live.
    var isWritable: Bool { get }

    /// The program that runs in the guest, for symbols; nil where there is none.
    var executable: DebugExecutable? { get }

    /// What a debugger takes the CPU for; asked once in a session. Nil: what the program is for,
    /// and where there is none, what fits the CPU's mode when the debugger comes.
    var architecture: DebugArchitecture? { get }

    /// Where a debugger may read, in the addresses that it uses (virtual ones). It refuses by
    /// itself what no region covers, so that a map must cover all or be empty; empty: none is
    /// offered.
    var memoryMap: [MemoryRegion] { get }

    /// Reads the registers of one vCPU.
    ///
    /// - Throws: ``DebugError`` where the machine cannot tell.
    mutating func registers(of thread: DebugThread.ID) throws(DebugError) -> TargetRegisters

    /// Writes the registers of one vCPU. Called only where ``isWritable``.
    ///
    /// - Parameter registers: those that ``registers(of:)`` gave, with one or more changed.
    mutating func setRegisters(
        _ registers: TargetRegisters, of thread: DebugThread.ID) throws(DebugError)

    /// Reads memory as the guest sees it: without breakpoints, and with the original bytes of
    /// rewritten instructions.
    ///
    /// - Parameters:
    ///   - address: linear before paging or physical, as `space` says.
    ///   - count: 1 to ``Limits/memoryTransfer`` bytes; `address + count` does not overflow.
    ///   - thread: the vCPU whose page tables translate.
    /// - Returns: the bytes up to the first that is not mapped: none to `count` of them.
    mutating func read(
        _ address: UInt64, count: Int, space: MemorySpace, thread: DebugThread.ID
    ) throws(DebugError) -> [UInt8]

    /// Writes memory. Called only where ``isWritable``, with at least one byte; all or nothing.
    mutating func write(
        _ bytes: [UInt8], at address: UInt64, space: MemorySpace, thread: DebugThread.ID
    ) throws(DebugError)

    /// Adds a breakpoint. It must never show in the guest's memory.
    ///
    /// The server never inserts one that is there already, nor more than
    /// ``Limits/breakpoints``.
    mutating func insert(_ breakpoint: Breakpoint) throws(DebugError)

    /// Takes a breakpoint out that was inserted.
    mutating func remove(_ breakpoint: Breakpoint) throws(DebugError)

    /// Moves the machine until there is a reason to stop.
    ///
    /// A breakpoint at the place where the move starts does not stop it. At a stop by a
    /// breakpoint the machine stands before the instruction at its address, in both directions; by
    /// a watchpoint it stands after the instruction that touched the memory when it ran forward,
    /// and before it when it ran back, so that the debugger sees the value change.
    ///
    /// - Parameters:
    ///   - thread: the vCPU that steps; the others run along.
    ///   - interrupt: to be asked often, at least every few milliseconds; raised: stop wherever the
    ///     machine is, as ``StopReason/interrupted``.
    /// - Throws: ``DebugError`` where the machine did not move or could not go on; it stands
    ///   somewhere in any case.
    mutating func resume(
        _ action: ResumeAction, thread: DebugThread.ID, until interrupt: InterruptFlag
    ) throws(DebugError) -> StopEvent

    /// What the guest printed during the last ``resume(_:thread:until:)``, if that ran forward; what
    /// was given once is not given again when the same way is gone again.
    ///
    /// - Throws: ``DebugError`` where the recording cannot be read; the machine stands where it did.
    mutating func printed() throws(DebugError) -> [UInt8]

    /// Answers a `monitor` command. `help` and text that is no command never come here.
    ///
    /// - Parameter interrupt: as in ``resume(_:thread:until:)``: a long search ends early, as an
    ///   error.
    mutating func monitor(
        _ command: MonitorCommand, until interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply
}

extension DebugTarget where Self: ~Copyable {
    /// All addresses, as RAM: a guest's page tables say what is there.
    public var memoryMap: [MemoryRegion] { MemoryRegion.everything }

    /// Nothing: the machine has no console.
    public mutating func printed() throws(DebugError) -> [UInt8] { [] }

    /// No program is known.
    public var executable: DebugExecutable? { nil }

    /// As the program and the CPU's mode have it.
    public var architecture: DebugArchitecture? { nil }
}

/// What a debugger takes a CPU for. gdb cannot change its mind in mid-session, whatever mode the
/// CPU is in, and does not work with a program of the other kind.
public enum DebugArchitecture: Sendable {
    /// 64-bit registers, and all of a long-mode CPU.
    case x86_64
    /// 32-bit registers: for guests that never enter long mode.
    case i386
    /// The same, with code disassembled as 16-bit code: for guests that start in real mode. gdb's
    /// `set architecture i386` shows 32-bit code, and `set architecture i8086` goes back.
    case i8086
}

/// A vCPU as the debugger lists it.
public struct DebugThread: Equatable, Sendable {
    /// The debugger's number of a thread: 1 and up; vCPU 0 is thread 1.
    public typealias ID = UInt32

    /// Its number; 0 is never used.
    public var id: ID
    /// What `info threads` shows: `vCPU 0`.
    public var name: String

    /// Makes a thread.
    public init(id: ID, name: String) {
        self.id = id
        self.name = name
    }
}

/// The guest's program file, from which the debugger reads symbols over the connection.
public struct DebugExecutable: Sendable {
    /// The file's name, shown to people; need not exist on this host.
    public var name: String
    /// The whole file, as the trace holds it; served to the debugger read-only.
    public var bytes: [UInt8]

    /// Makes a program.
    public init(name: String, bytes: [UInt8]) {
        self.name = name
        self.bytes = bytes
    }

    /// What it runs on: i386 for a 32-bit ELF file of that machine (gABI, "ELF Header"; the
    /// psABI's EM_386), x86-64 for all else.
    public var architecture: DebugArchitecture {
        let is32BitELF = bytes.starts(with: [0x7F, 0x45, 0x4C, 0x46, 1])
        return is32BitELF && bytes.count > 19 && bytes[18] == 3 && bytes[19] == 0
            ? .i386 : .x86_64
    }
}

/// Which addresses a debugger means.
public enum MemorySpace: Sendable {
    /// Linear addresses, through the vCPU's page tables.
    case virtual
    /// Guest-physical addresses (QEMU's `maintenance packet Qqemu.PhyMemMode:1`).
    case physical
}

/// A range of addresses that the debugger is told of.
public struct MemoryRegion: Equatable, Sendable {
    /// What is there.
    public enum Kind: String, Sendable {
        /// Memory that can be written.
        case ram
        /// Memory that cannot be: the debugger uses hardware breakpoints there.
        case rom
    }

    /// What is there.
    public var kind: Kind
    /// The first address.
    public var start: UInt64
    /// Length in bytes; `start + length` is at most 2^64.
    public var length: UInt64

    /// Makes a region.
    public init(kind: Kind, start: UInt64, length: UInt64) {
        self.kind = kind
        self.start = start
        self.length = length
    }

    /// All 2^64 addresses, as RAM, in two halves because a length has 64 bits.
    public static let everything = [
        MemoryRegion(kind: .ram, start: 0, length: 1 << 63),
        MemoryRegion(kind: .ram, start: 1 << 63, length: 1 << 63),
    ]
}

/// Bounds of what a debugger may ask for.
public enum Limits {
    /// Longest packet in either direction, in bytes between `$` and `#`.
    public static let packet = 0x8000
    /// Most bytes of memory in one request.
    public static let memoryTransfer = packet / 2
    /// Most breakpoints and watchpoints together.
    public static let breakpoints = 4096
    /// Longest stretch of memory that one watchpoint covers, in bytes.
    public static let watchedBytes: UInt64 = 4096
    /// Longest `monitor` command, in bytes.
    public static let monitorCommand = 1024
    /// Most bytes of one `monitor` answer; what is longer is cut, and says so.
    public static let monitorReply = 1 << 20
    /// Most instructions that one `monitor disassemble` shows.
    public static let disassembledInstructions: UInt64 = 1000
    /// Most exits that one `monitor exits` lists.
    public static let listedExits: UInt64 = 1000
    /// Most vCPUs.
    public static let threads = 1024
}
