internal import Machine

/// The local APIC of the one CPU there is, in xAPIC mode (Intel SDM vol. 3, chapter 12).
///
/// It sits between the CPU and everything that interrupts: messages of the I/O APIC, its own timer
/// and errors, and LINT0, where the 8259 pair is. It is on from the start, disabled by software,
/// with LINT0 in virtual wire mode, as firmware leaves it.
struct LocalAPIC: Sendable {
    /// Seven entries in the local vector table.
    private static let version = 6 << 16 | UInt32(PCLayout.localAPICVersion)

    /// Bits of the error status register (12.5.3).
    private enum ErrorBit {
        static let sentIllegalVector: UInt32 = 1 << 5
        static let receivedIllegalVector: UInt32 = 1 << 6
        static let illegalRegister: UInt32 = 1 << 7
    }

    /// IA32_APIC_BASE.
    private(set) var base = PCLayout.localAPICBase
    private var id = UInt32(PCLayout.localAPICID) << 24
    private(set) var taskPriority: UInt8 = 0
    private var logicalDestination: UInt32 = 0
    private var destinationFormat: UInt32 = 0xFFFF_FFFF
    private var spurious: UInt32 = 0xFF
    private var inService = VectorSet()
    private var triggerModes = VectorSet()
    private var requests = VectorSet()
    /// What ESR shows, and what was found since it was written last.
    private var errors: UInt32 = 0
    private var newErrors: UInt32 = 0
    private var commandLow: UInt32 = 0
    private var commandHigh: UInt32 = 0
    private var vectors = LocalVectorTable()
    private(set) var timer = APICTimer()
    /// The level of LINT0: the 8259 pair's INTR.
    private var line0 = false
    /// An NMI waits for the CPU.
    private(set) var hasNonMaskable = false

    init() { vectors.connectVirtualWire() }

    // MARK: What is on

    /// Whether the APIC is on at all; off, its page is no device's, and LINT0 is the CPU's INTR.
    var isOn: Bool { base >> 11 & 1 != 0 }
    /// Whether software has enabled it; else it takes NMIs only.
    var isEnabled: Bool { isOn && spurious >> 8 & 1 != 0 }
    /// Where its registers are.
    var page: UInt64 { base & 0x000F_FFFF_FFFF_F000 }

    /// What IA32_APIC_BASE holds now. Turned off, the APIC forgets everything (12.4.3).
    mutating func setBase(_ value: UInt64) {
        guard value != base else { return }
        if value >> 11 & 1 == 0, isOn {
            let (line0, hasNonMaskable) = (line0, hasNonMaskable)
            self = LocalAPIC()
            vectors = LocalVectorTable()
            (self.line0, self.hasNonMaskable) = (line0, hasNonMaskable)
        }
        base = value
    }

    /// What CR8 shows: the class of the task priority.
    var taskPriorityClass: UInt64 { UInt64(taskPriority >> 4) }

    /// A write to CR8 (12.8.6.1).
    mutating func setTaskPriorityClass(_ value: UInt64) {
        guard value != taskPriorityClass else { return }
        taskPriority = UInt8(truncatingIfNeeded: value << 4)
    }

    // MARK: Priorities

    /// PPR (12.8.3.1).
    var processorPriority: UInt8 {
        let served = inService.highest ?? 0
        return taskPriority >> 4 >= served >> 4 ? taskPriority : served & 0xF0
    }

    /// APR (12.6.2.4 of older editions, P6 family).
    private var arbitrationPriority: UInt8 {
        let task = taskPriority >> 4
        let served = (inService.highest ?? 0) >> 4
        let requested = (requests.highest ?? 0) >> 4
        if task >= requested, task > served { return taskPriority }
        return max(task & served, requested) << 4
    }

    /// The vector that the CPU is to take now; nil: none.
    private var deliverable: UInt8? {
        guard isOn, let vector = requests.highest, vector >> 4 > processorPriority >> 4 else {
            return nil
        }
        return vector
    }

    /// Whether a vector waits that the CPU's priority lets through.
    var hasInterrupt: Bool { deliverable != nil }

    /// Whether LINT0 lets the 8259 pair's interrupts through to the CPU.
    var passesExternal: Bool {
        !isOn || vectors.isOpen(.line0) && vectors.delivery(.line0) == .external
    }

    /// Whether a message with this vector would reach the CPU as things are.
    func wouldDeliver(_ vector: UInt8) -> Bool {
        isEnabled && vector >= 16 && vector >> 4 > processorPriority >> 4
    }

    /// Whether the task priority, and nothing else, would hold a vector back.
    func isHeldBack(_ vector: UInt8) -> Bool {
        isEnabled && vector >= 16 && vector >> 4 <= taskPriority >> 4
            && vector >> 4 > (inService.highest ?? 0) >> 4
    }

    /// Whether the task priority holds back what waits, or what the timer will ask for.
    var isHoldingBack: Bool {
        if let vector = requests.highest, isHeldBack(vector) { return true }
        return timer.nextExpiry != nil && vectors.isOpen(.timer)
            && isHeldBack(vectors.vector(.timer))
    }

    /// Gives the CPU its vector, which is then in service; the spurious one where none waits.
    mutating func acknowledge() -> UInt8 {
        guard let vector = deliverable else { return UInt8(truncatingIfNeeded: spurious) }
        requests[vector] = false
        inService[vector] = true
        return vector
    }

    /// The CPU takes the NMI.
    mutating func acknowledgeNonMaskable() { hasNonMaskable = false }

    /// Ends what has the highest priority of what is in service. Gives its vector if it came from
    /// a level, which asks again: the I/O APIC's, or LINT0's own.
    private mutating func endInterrupt() -> UInt8? {
        guard let vector = inService.highest else { return nil }
        inService[vector] = false
        guard triggerModes[vector] else { return nil }
        triggerModes[vector] = false
        if vectors.vector(.line0) == vector { vectors.endRequest(.line0) }
        serveLine0()
        return vector
    }

    // MARK: Messages

    /// Whether a message is for this APIC (12.6.2).
    func matches(_ destination: APICDestination) -> Bool {
        if destination.value == 0xFF { return true }
        guard destination.isLogical else { return destination.value == UInt8(id >> 24) }
        let own = UInt8(logicalDestination >> 24)
        if destinationFormat >> 28 == 0xF { return destination.value & own != 0 }
        return destination.value >> 4 == own >> 4 && destination.value & own & 0x0F != 0
    }

    /// A message of the I/O APIC or of this APIC itself. False: it is not taken, and a level is to
    /// be sent again.
    mutating func receive(
        _ delivery: APICDelivery, vector: UInt8, isLevel: Bool, for destination: APICDestination
    ) -> Bool {
        guard isOn, matches(destination) else { return false }
        switch delivery {
        case .fixed, .lowestPriority: return accept(vector, isLevel: isLevel)
        case .nonMaskable:
            hasNonMaskable = true
            return true
        default: return false
        }
    }

    private mutating func accept(_ vector: UInt8, isLevel: Bool) -> Bool {
        guard isEnabled else { return false }
        guard vector >= 16 else {
            report(ErrorBit.receivedIllegalVector)
            return false
        }
        requests[vector] = true
        triggerModes[vector] = isLevel
        return true
    }

    /// An error is found: it interrupts if it is the first since ESR was written.
    private mutating func report(_ error: UInt32) {
        let isFirst = newErrors == 0
        newErrors |= error
        if isFirst { raise(.error) }
    }

    /// A local interrupt happens.
    private mutating func raise(_ entry: LocalVectorTable.Entry) {
        guard isOn, vectors.isOpen(entry) else { return }
        switch vectors.delivery(entry) {
        case .fixed:
            let vector = vectors.vector(entry)
            // An error entry whose own vector is illegal would find errors for ever.
            if entry == .error, vector < 16 { return }
            _ = accept(vector, isLevel: false)
        case .nonMaskable: hasNonMaskable = true
        default: break
        }
    }

    /// The level of LINT0. What passes through to the CPU is not looked at here.
    mutating func setLine0(_ isHigh: Bool) {
        guard isHigh != line0 else { return }
        line0 = isHigh
        let isAsserted = isHigh == (vectors[.line0] & LocalVectorTable.activeLow == 0)
        if vectors[.line0] & LocalVectorTable.levelTriggered != 0 {
            serveLine0()
        } else if isAsserted {
            raise(.line0)
        }
    }

    /// A level on LINT0 that is delivered as a vector asks again after each end.
    private mutating func serveLine0() {
        let entry = vectors[.line0]
        guard vectors.isOpen(.line0), vectors.delivery(.line0) == .fixed,
            entry & LocalVectorTable.levelTriggered != 0,
            entry & LocalVectorTable.remoteRequest == 0,
            line0 == (entry & LocalVectorTable.activeLow == 0)
        else { return }
        if accept(vectors.vector(.line0), isLevel: true) {
            vectors.beginRequest(.line0)
        }
    }

    /// A write to the low half of ICR sends an interrupt (12.6.1). There is nobody else to take
    /// one: what is not for this APIC goes nowhere, nor do INIT and start-up.
    private mutating func send() {
        let destination: APICDestination
        switch commandLow >> 18 & 3 {
        case 0:
            destination = APICDestination(
                value: UInt8(commandHigh >> 24), isLogical: commandLow >> 11 & 1 != 0)
        case 1: destination = APICDestination(value: UInt8(id >> 24), isLogical: false)
        case 2: destination = APICDestination(value: 0xFF, isLogical: false)
        default: return
        }
        let vector = UInt8(truncatingIfNeeded: commandLow)
        switch APICDelivery(bits: commandLow) {
        case .fixed, .lowestPriority:
            guard vector >= 16 else { return report(ErrorBit.sentIllegalVector) }
            _ = receive(.fixed, vector: vector, isLevel: false, for: destination)
        case .nonMaskable:
            _ = receive(.nonMaskable, vector: vector, isLevel: false, for: destination)
        default: break
        }
    }

    // MARK: Time

    /// Moves on to a time, which is not before the last one.
    mutating func advance(to nanoseconds: UInt64) {
        if timer.advance(to: nanoseconds) { raise(.timer) }
    }

    /// When the timer interrupts by itself next; nil where it does not, or the CPU's priority
    /// would hold the interrupt back.
    var nextInterrupt: UInt64? {
        guard vectors.isOpen(.timer), wouldDeliver(vectors.vector(.timer)) else { return nil }
        return timer.nextExpiry
    }

    /// IA32_TSC_DEADLINE is written: its value, and when that is.
    mutating func setDeadline(_ stamp: UInt64, at nanoseconds: UInt64, now: UInt64) {
        timer.setDeadline(stamp, at: nanoseconds)
        advance(to: now)
    }

    // MARK: Registers

    /// Reads the register at an offset in the page, a multiple of 16 (table 12-1).
    mutating func read(_ offset: UInt16) -> UInt32 {
        switch offset {
        case 0x020: return id
        case 0x030: return Self.version
        case 0x080: return UInt32(taskPriority)
        case 0x090: return UInt32(arbitrationPriority)
        case 0x0A0: return UInt32(processorPriority)
        // EOI is written only; the remote read register has nobody to read from.
        case 0x0B0, 0x0C0: return 0
        case 0x0D0: return logicalDestination
        case 0x0E0: return destinationFormat
        case 0x0F0: return spurious
        case 0x100...0x170: return inService.word(offset >> 4)
        case 0x180...0x1F0: return triggerModes.word(offset >> 4)
        case 0x200...0x270: return requests.word(offset >> 4)
        case 0x280: return errors
        case 0x300: return commandLow
        case 0x310: return commandHigh
        case 0x380: return timer.initialCount
        case 0x390: return timer.currentCount
        case 0x3E0: return timer.divideConfiguration
        default:
            guard let entry = LocalVectorTable.Entry(rawValue: offset) else {
                report(ErrorBit.illegalRegister)
                return 0
            }
            return vectors[entry]
        }
    }

    /// Writes the register at an offset in the page, a multiple of 16. Gives the vector whose
    /// level-triggered interrupt the write ended, for the I/O APIC.
    mutating func write(_ offset: UInt16, _ value: UInt32) -> UInt8? {
        switch offset {
        case 0x020: id = value & 0xFF00_0000
        case 0x080: taskPriority = UInt8(truncatingIfNeeded: value)
        case 0x0B0: return endInterrupt()
        case 0x0D0: logicalDestination = value & 0xFF00_0000
        case 0x0E0: destinationFormat = value | 0x0FFF_FFFF
        case 0x0F0:
            if spurious >> 8 & 1 != 0, value >> 8 & 1 == 0 { vectors.maskAll() }
            spurious = value & 0x3FF
            serveLine0()
        case 0x280:
            errors = newErrors
            newErrors = 0
        case 0x300:
            commandLow = value & 0x000C_CFFF
            send()
        case 0x310: commandHigh = value & 0xFF00_0000
        case 0x380: timer.start(value)
        case 0x3E0: timer.setDivide(value)
        case 0x030, 0x090, 0x0A0, 0x0C0, 0x100...0x270, 0x390: break  // read only
        default:
            guard let entry = LocalVectorTable.Entry(rawValue: offset) else {
                report(ErrorBit.illegalRegister)
                return nil
            }
            vectors.write(entry, value, isEnabled: isEnabled)
            if entry == .timer {
                timer.setMode(APICTimer.Mode(rawValue: UInt8(value >> 17 & 3)) ?? .reserved)
            }
            serveLine0()
        }
        return nil
    }
}
