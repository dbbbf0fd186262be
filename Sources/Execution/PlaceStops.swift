internal import Guest
internal import KVM
internal import Machine

/// What stops the guest at places while one for a landmark is looked for.
protocol PlaceStops {
    /// Where it stops.
    var addresses: [UInt64] { get }
    /// How long the thread was on a CPU for the last run or step.
    var lastNanoseconds: UInt64 { get }
    /// Makes ready to stop the guest; before anything is planted.
    mutating func park<CPU: Processor & ~Copyable>(_ cpu: inout CPU) throws(KVMError)
    /// Stops at an address from now on; false where there is no code.
    mutating func plant(
        _ address: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) throws(ExecutionError) -> Bool
    /// No longer stops at an address.
    mutating func remove(
        _ address: UInt64, _ memory: borrowing GuestMemory
    ) throws(ExecutionError)
    /// Runs to the next stop.
    mutating func run<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> PlaceStop
    /// Executes the instruction at a planted place where the guest was just stopped.
    mutating func leave<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> PlaceStop
    /// Executes one instruction, planted or not.
    mutating func step<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> PlaceStop
    /// Stops nowhere any more, and leaves no trace.
    mutating func unpark<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(ExecutionError)
}

/// Why the guest stopped.
enum PlaceStop {
    /// It stands at a planted place, which it has not executed.
    case breakpoint
    /// One instruction, or one iteration of a REP, has been executed.
    case stepped
    /// The next instruction touches memory that is kept from it; it has not been executed.
    case touched
    /// It raised an exception of its own, and will again.
    case raised(UInt8)
    /// It was kicked.
    case kicked
    /// It exits, as it would have anyway.
    case exit(Exit)
}
