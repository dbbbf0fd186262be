public import Machine

/// Turns rows into events.
///
/// Remembers the registers of each vCPU, as the encoder that wrote the rows did; so it must be given
/// rows in order, from a start event or from a known snapshot on.
public struct RowReader: Sendable {
    /// General-purpose registers, RIP and RFLAGS of ``vCPU`` after the last event: at an exit, the
    /// exit's snapshot.
    public private(set) var registers = GeneralRegisters()
    /// System registers of ``vCPU`` after the last event.
    public private(set) var system = SystemRegisters()
    /// The vCPU of the last event.
    public private(set) var vCPU: UInt8 = 0
    /// The states of all vCPUs but that of ``vCPU``, which is out of date here.
    private var others: [VCPUState]

    /// Makes a reader for vCPUs 0 ..< `vCPUCount` (1 to 256), all registers zero.
    public init(vCPUCount: Int) {
        precondition(vCPUCount >= 1 && vCPUCount <= Limits.vCPUs)
        others = Array(repeating: VCPUState(), count: vCPUCount)
    }

    init(states: [VCPUState]) {
        precondition(!states.isEmpty)
        others = states
        registers = states[0].registers
        system = states[0].system
    }

    /// The states of all vCPUs.
    var states: [VCPUState] {
        var states = others
        states[Int(vCPU)] = VCPUState(registers: registers, system: system)
        return states
    }

    /// The registers of any vCPU after the last event; nil for a vCPU that does not exist.
    public func snapshot(
        vCPU: UInt8
    ) -> (registers: GeneralRegisters, system: SystemRegisters)? {
        guard Int(vCPU) < others.count else { return nil }
        let state =
            vCPU == self.vCPU
            ? VCPUState(registers: registers, system: system) : others[Int(vCPU)]
        return (state.registers, state.system)
    }

    /// Takes these registers as those of a vCPU, without an event: after a restored checkpoint.
    public mutating func setSnapshot(
        registers newRegisters: GeneralRegisters, system newSystem: SystemRegisters,
        vCPU number: UInt8 = 0
    ) {
        precondition(Int(number) < others.count, "a vCPU the reader was not made for")
        if number == vCPU {
            registers = newRegisters
            system = newSystem
        } else {
            others[Int(number)] = VCPUState(registers: newRegisters, system: newSystem)
        }
    }

    /// Reads one row; ranges in the event are places in `row`.
    ///
    /// Errors: the bytes are no row.
    public mutating func read(_ row: UnsafeRawBufferPointer) throws(TraceError) -> Event {
        do throws(Malformed) { return try unsafe read(row, offset: 0) } catch {
            throw TraceError(.damaged, file: "row", error.what)
        }
    }

    /// Reads one row; ranges in the event are places in `row` plus `offset`.
    mutating func read(
        _ row: UnsafeRawBufferPointer, offset: Int
    ) throws(Malformed) -> Event {
        let view = try unsafe RowView(row)
        if view.vCPU != vCPU { try select(view.vCPU) }
        if view.kind == .exit { return try unsafe .exit(exit(view, row, offset)) }
        // SAFETY: the view vouches for the row, and the reader checks every bound.
        var reader = unsafe ByteReader(row, "a row")
        try reader.skip(view.body)
        switch view.kind {
        case .start:
            (registers, system) = try Self.state(&reader)
            return .start
        case .answer:
            let form = AnswerForm(rawValue: try reader.integer())
            let count = Int(try reader.integer(UInt16.self))
            let at = offset + reader.position
            return .answer(form, data: at..<at + count)
        case .completion:
            return .completion(changes: offset + reader.position..<offset + row.count)
        case .deviceWrite:
            let address = GuestPhysicalAddress(try reader.integer(UInt64.self))
            let count = Int(try reader.integer(UInt32.self))
            let at = offset + reader.position
            return .deviceWrite(address: address, data: at..<at + count)
        case .interruption:
            let found = try Self.interruption(&reader, registers)
            return .interruption(
                found.kind, vector: found.vector, errorCode: found.errorCode,
                isInMidFlight: found.landmark != nil)
        case .end:
            let end = try Self.end(&reader)
            (registers, system) = (end.registers, end.system)
            return .end(end.event)
        case .exit:
            throw Malformed("unreachable")
        }
    }

    private mutating func select(_ newVCPU: UInt8) throws(Malformed) {
        guard Int(newVCPU) < others.count else {
            throw Malformed("an event of vCPU \(newVCPU) where there are \(others.count)")
        }
        others[Int(vCPU)] = VCPUState(registers: registers, system: system)
        registers = others[Int(newVCPU)].registers
        system = others[Int(newVCPU)].system
        vCPU = newVCPU
    }

    @inline(__always)
    private mutating func exit(
        _ view: RowView, _ row: UnsafeRawBufferPointer, _ offset: Int
    ) throws(Malformed) -> ExitEvent {
        guard let base = row.baseAddress else { throw Malformed("no row") }
        // SAFETY: the view vouches for every field's place in the row.
        var mask = view.registerMask
        var at = view.registersAt
        while mask != 0 {
            registers.words[mask.trailingZeroBitCount] = unsafe base.get(UInt64.self, at: at)
            at += 8
            mask &= mask &- 1
        }
        var systemMask = view.systemMask
        at = view.systemAt
        while systemMask != 0 {
            system.words[systemMask.trailingZeroBitCount] = unsafe base.get(
                UInt64.self, at: at)
            at += 8
            systemMask &= systemMask &- 1
        }
        return ExitEvent(
            detail: unsafe Self.detail(view, base, end: row.count, offset),
            flags: ExitFlags(rawValue: view.flags).intersection(.defined), rewind: view.rewind,
            changedRegisters: view.registerMask, changedSystemWords: view.systemMask,
            rip: registers.words[RowLayout.ripIndex])
    }

    @inline(__always)
    private static func detail(
        _ view: RowView, _ base: UnsafeRawPointer, end: Int, _ offset: Int
    ) -> ExitDetail<Range<Int>> {
        // SAFETY: see `exit`.
        let at = view.detailAt
        func rest(_ from: Int) -> Range<Int> { offset + at + from..<offset + end }
        switch view.reason {
        case 2:
            return .io(
                isWrite: unsafe base.get(UInt8.self, at: at) != 0,
                size: unsafe base.get(UInt8.self, at: at + 1),
                port: unsafe base.get(UInt16.self, at: at + 2),
                count: unsafe base.get(UInt32.self, at: at + 4), data: rest(8))
        case 6:
            var value: UInt64 = 0
            for index in 0..<(end - at - 10) {
                let byte = unsafe base.get(UInt8.self, at: at + 10 + index)
                value |= UInt64(byte) << UInt64(index * 8)
            }
            return .mmio(
                address: GuestPhysicalAddress(unsafe base.get(UInt64.self, at: at + 2)),
                length: unsafe base.get(UInt8.self, at: at),
                isWrite: unsafe base.get(UInt8.self, at: at + 1) != 0, value: value)
        case 29:
            return .rdmsr(
                index: unsafe base.get(UInt32.self, at: at),
                why: unsafe base.get(UInt32.self, at: at + 4))
        case 30:
            return .wrmsr(
                index: unsafe base.get(UInt32.self, at: at),
                why: unsafe base.get(UInt32.self, at: at + 4),
                value: unsafe base.get(UInt64.self, at: at + 8))
        case 3:
            return .hypercall(
                number: unsafe base.get(UInt64.self, at: at + 1),
                isLongMode: unsafe base.get(UInt8.self, at: at) != 0, arguments: rest(9))
        case 17:
            return .internalError(
                suberror: unsafe base.get(UInt32.self, at: at), data: rest(5))
        case 24:
            return .systemEvent(type: unsafe base.get(UInt32.self, at: at), data: rest(5))
        case 9:
            return .failEntry(
                hardwareReason: unsafe base.get(UInt64.self, at: at),
                cpu: unsafe base.get(UInt32.self, at: at + 8))
        case 1:
            return .exception(
                vector: unsafe base.get(UInt32.self, at: at),
                errorCode: unsafe base.get(UInt32.self, at: at + 4))
        case 4:
            return .debug(
                exception: unsafe base.get(UInt32.self, at: at),
                pc: unsafe base.get(UInt64.self, at: at + 4),
                dr6: unsafe base.get(UInt64.self, at: at + 12),
                dr7: unsafe base.get(UInt64.self, at: at + 20))
        default: return .other(ExitReason(rawValue: view.reason), data: rest(2))
        }
    }

    static func state(
        _ reader: inout ByteReader
    ) throws(Malformed) -> (GeneralRegisters, SystemRegisters) {
        var registers = GeneralRegisters()
        var system = SystemRegisters()
        for index in 0..<RowLayout.registerCount {
            registers.words[index] = try reader.integer()
        }
        for index in 0..<RowLayout.systemWordCount { system.words[index] = try reader.integer() }
        return (registers, system)
    }

    static func interruption(
        _ reader: inout ByteReader, _ snapshot: GeneralRegisters
    ) throws(Malformed) -> Interruption {
        let kindByte: UInt8 = try reader.integer()
        guard let kind = InterruptionKind(rawValue: kindByte) else {
            throw Malformed("an interruption of unknown kind \(kindByte)")
        }
        let vector: UInt8 = try reader.integer()
        let flags: UInt8 = try reader.integer()
        let needsLandmark =
            InterruptionRowFlag.progress | InterruptionRowFlag.instructions
            | InterruptionRowFlag.parts | InterruptionRowFlag.stored
        guard flags & ~InterruptionRowFlag.all == 0,
            flags & InterruptionRowFlag.landmark != 0 || flags & needsLandmark == 0
        else { throw Malformed("an interruption with flags \(flags)") }
        var result = Interruption(kind, vector: vector)
        if flags & InterruptionRowFlag.errorCode != 0 { result.errorCode = try reader.integer() }
        guard flags & InterruptionRowFlag.landmark != 0 else { return result }
        var landmark = Landmark(registers: snapshot, state: .zero)
        var mask: UInt32 = try reader.integer()
        guard mask & ~RowLayout.registerMask == 0 else {
            throw Malformed("a landmark's register mask is out of range")
        }
        while mask != 0 {
            landmark.registers.words[mask.trailingZeroBitCount] = try reader.integer()
            mask &= mask &- 1
        }
        landmark.state.low = try reader.integer()
        landmark.state.high = try reader.integer()
        if flags & InterruptionRowFlag.progress != 0 { landmark.progress = try reader.integer() }
        if flags & InterruptionRowFlag.instructions != 0 {
            landmark.instructions = try reader.integer()
        }
        if flags & InterruptionRowFlag.parts != 0 { landmark.parts = try parts(&reader) }
        if flags & InterruptionRowFlag.stored != 0 {
            let stored = StoredPlace(
                rowCount: try reader.integer(), taskPriorityClass: try reader.integer())
            guard stored.rowCount > 0, stored.taskPriorityClass < 16 else {
                throw Malformed("a landmark that is stored in no completion")
            }
            landmark.stored = stored
        }
        result.landmark = landmark
        return result
    }

    private static func parts(_ reader: inout ByteReader) throws(Malformed) -> LandmarkParts {
        var parts = LandmarkParts(
            processor: try reader.integer(), memory: try reader.integer(), pages: nil)
        let count: UInt16 = try reader.integer()
        guard count != InterruptionRowFlag.unknownPages else { return parts }
        guard Int(count) <= LandmarkParts.pageLimit else {
            throw Malformed("a landmark with \(count) pages")
        }
        var pages: [MemoryDigest.Page] = []
        for _ in 0..<count {
            let page = MemoryDigest.Page(
                number: try reader.integer(), hash: try reader.integer())
            if let last = pages.last, page.number <= last.number {
                throw Malformed("a landmark's pages are out of order")
            }
            pages.append(page)
        }
        parts.pages = pages
        return parts
    }

    static func end(
        _ reader: inout ByteReader
    ) throws(Malformed) -> (
        event: EndEvent, registers: GeneralRegisters, system: SystemRegisters
    ) {
        let reason = EndReason(rawValue: try reader.integer())
        let flags: UInt8 = try reader.integer()
        guard flags & ~EndRowFlag.all == 0 else {
            throw Malformed("an end with flags \(flags)")
        }
        var event = EndEvent(
            reason: reason, isInMidFlight: flags & EndRowFlag.midFlight != 0)
        if flags & EndRowFlag.guestStatus != 0 { event.guestStatus = try reader.integer() }
        let (registers, system) = try state(&reader)
        if flags & EndRowFlag.memory != 0 {
            event.memory = Digest128(low: try reader.integer(), high: try reader.integer())
        }
        return (event, registers, system)
    }

    /// The changes of a completion, from the bytes that ``Event/completion(changes:)`` refers to.
    ///
    /// Empty where the bytes are not a list of changes, which a row that was read never has.
    public static func changes(in bytes: UnsafeRawBufferPointer) -> [Change] {
        // SAFETY: the reader checks every bound; the changes own their bytes.
        var reader = unsafe ByteReader(bytes, "a completion")
        var changes: [Change] = []
        do throws(Malformed) {
            for _ in 0..<(try reader.integer(UInt16.self)) {
                changes.append(try Change.read(&reader))
            }
        } catch { return [] }
        return changes
    }
}
