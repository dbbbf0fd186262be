internal import Guest
internal import KVM
internal import Machine

/// Stops where the CPU's breakpoints and steps work: in ring 0.
struct Ring0Stops: PlaceStops {
    /// One of the CPU's four may be taken (``Processor/setStandingBreakpoint(_:)``).
    private static let limit = 3

    private var planted: [UInt64] = []
    private var armed = GuestDebug.off
    private(set) var lastNanoseconds: UInt64 = 0

    /// The first ones: the others move up as those are removed.
    var addresses: [UInt64] { Array(planted.prefix(Self.limit)) }

    mutating func park<CPU: Processor & ~Copyable>(_ cpu: inout CPU) {}

    mutating func plant(
        _ address: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool {
        guard !planted.contains(address) else { return true }
        let place = GuestVirtualAddress(address)
        guard PageWalk.mapping(of: place, system: system, memory: memory) != nil else {
            return false
        }
        planted.append(address)
        return true
    }

    mutating func remove(
        _ address: UInt64, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        planted.removeAll { $0 == address }
    }

    mutating func run<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> PlaceStop {
        try arm(
            GuestDebug(breakpoints: addresses.map { .init(GuestVirtualAddress($0)) }), &cpu)
        let exit = try enter(&cpu)
        guard let exit else { return .kicked }
        // SAFETY: the page's registers do not change before the next run.
        if case .debug = exit, addresses.contains(unsafe cpu.registersPointer.pointee.rip) {
            return .breakpoint
        }
        return .exit(exit)
    }

    /// A step, as from anywhere else: in ring 0 it is cheap.
    mutating func leave<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> PlaceStop { try step(&cpu, memory) }

    mutating func step<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> PlaceStop {
        // SAFETY: the page's registers do not change before the next run.
        let registers = unsafe cpu.registersPointer.pointee
        let system = unsafe cpu.systemRegistersPointer.pointee
        guard !ReturnToRing3.isNext(registers, system: system, memory: memory) else {
            // A step does not stop behind it everywhere.
            try remove(registers.rip, memory)
            return try run(&cpu, memory)
        }
        try arm(GuestDebug(singleStep: true), &cpu)
        let trace = StepTrace(registers: registers, system: system)
        let exit = try enter(&cpu)
        guard case .debug? = exit else {
            trace.hide(memory)
            return exit.map { .exit($0) } ?? .kicked
        }
        try kvm { () throws(KVMError) in
            try trace.hideAll(&cpu, memory, counted: nil, isFromStop: false)
        }
        return .stepped
    }

    mutating func unpark<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) {
        planted = []
        try arm(.off, &cpu)
    }

    private mutating func arm<CPU: Processor & ~Copyable>(
        _ debug: GuestDebug, _ cpu: inout CPU
    ) throws(ExecutionError) {
        guard debug != armed else { return }
        try kvm { () throws(KVMError) in try cpu.setGuestDebug(debug) }
        armed = debug
    }

    /// Nil: it was kicked.
    private mutating func enter<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU
    ) throws(ExecutionError) -> Exit? {
        let began = HostThread.ownNanoseconds()
        defer { lastNanoseconds = HostThread.ownNanoseconds() &- began }
        let result = try kvm { () throws(KVMError) in try cpu.run() }
        guard case .exit(let exit) = result else { return nil }
        return exit
    }
}
