public import Machine

#if canImport(Glibc)
    private import Glibc
#endif

/// Turns events into rows, their canonical bytes (FORMAT.md, "Rows").
///
/// A pure function of what it was given since it was made: recorder and replayer each have one, and
/// equal events give equal rows. It remembers one snapshot of the registers per vCPU, against which
/// the next exit of that vCPU is encoded. Each function writes one row at `destination`, where the
/// caller has room for ``maximumRowBytes``, and returns its length in bytes. Nothing is allocated.
@safe
public struct RowEncoder: ~Copyable {
    /// No row is longer than this, in bytes.
    public static let maximumRowBytes = 66 * 1024

    /// The snapshots, one a vCPU.
    private let states: UnsafeMutablePointer<VCPUState>
    /// How many vCPUs there are.
    public let vCPUCount: Int

    /// Makes an encoder for vCPUs 0 ..< `vCPUCount` (1 to 256), all registers zero.
    public init(vCPUCount: Int) {
        precondition(vCPUCount >= 1 && vCPUCount <= Limits.vCPUs)
        self.vCPUCount = vCPUCount
        // SAFETY: owned here, freed in deinit; every index is checked against `vCPUCount`.
        unsafe states = .allocate(capacity: vCPUCount)
        unsafe states.initialize(repeating: VCPUState(), count: vCPUCount)
    }

    deinit {
        // SAFETY: allocated and initialised by init.
        unsafe states.deinitialize(count: vCPUCount)
        unsafe states.deallocate()
    }

    @inline(__always)
    private func state(_ vCPU: UInt8) -> UnsafeMutablePointer<VCPUState> {
        precondition(Int(vCPU) < vCPUCount, "a vCPU the encoder was not made for")
        // SAFETY: just checked.
        return unsafe states + Int(vCPU)
    }

    /// Takes these registers as the snapshot, without an event: after a restored checkpoint.
    public mutating func setSnapshot(
        registers: GeneralRegisters, system: SystemRegisters, vCPU: UInt8 = 0
    ) {
        // SAFETY: `state` checks the index.
        unsafe state(vCPU).pointee = VCPUState(registers: registers, system: system)
    }

    /// The snapshot that the next exit of this vCPU is encoded against.
    public func snapshot(vCPU: UInt8 = 0) -> (
        registers: GeneralRegisters, system: SystemRegisters
    ) {
        // SAFETY: `state` checks the index.
        let state = unsafe state(vCPU).pointee
        return (state.registers, state.system)
    }

    @inline(__always)
    private func begin(
        _ kind: EventKind, _ vCPU: UInt8, _ destination: UnsafeMutableRawPointer
    ) -> Int {
        if vCPU == 0 {
            unsafe destination.put(kind.rawValue, at: 0)
            return 1
        }
        unsafe destination.put(kind.rawValue | RowLayout.vCPUBit, at: 0)
        unsafe destination.put(vCPU, at: 1)
        return 2
    }

    /// The initial state of a vCPU; it becomes the snapshot.
    public mutating func start(
        registers: GeneralRegisters, system: SystemRegisters, vCPU: UInt8 = 0,
        into destination: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: the caller has room for a row.
        let at = unsafe begin(.start, vCPU, destination)
        unsafe Self.putState(registers, system, at: destination + at)
        setSnapshot(registers: registers, system: system, vCPU: vCPU)
        return at + RowLayout.stateBytes
    }

    /// A numbered exit; its registers become the snapshot.
    ///
    /// `registers` and `system` may point into the run page. `rewind` is RIP minus the address of the
    /// instruction that caused the exit.
    @inline(__always)
    public mutating func exit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags = [], rewind: UInt8,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        vCPU: UInt8 = 0, into destination: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: the caller has room for a row, and gives pointers to whole register sets.
        unsafe encodeExit(
            detail, flags: flags, rewind: rewind,
            UnsafeRawPointer(registers), UnsafeRawPointer(system), vCPU, destination)
    }

    private func encodeExit(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, flags: ExitFlags, rewind: UInt8,
        _ registers: UnsafeRawPointer, _ system: UnsafeRawPointer, _ vCPU: UInt8,
        _ to: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: `registers` holds 18 words, `system` 39; `to` has room for a row, and no detail
        // is longer than its bound in `Limits`, which is checked where it is copied.
        let state = unsafe UnsafeMutableRawPointer(state(vCPU))
        let previousSystem = unsafe state + RowLayout.registerCount * 8
        var at = unsafe begin(.exit, vCPU, to)
        let reason = unsafe detail.reason.rawValue
        if reason < RowLayout.reasonEscape {
            unsafe to.put(UInt8(truncatingIfNeeded: reason), at: at)
            at += 1
        } else {
            unsafe to.put(UInt8(RowLayout.reasonEscape), at: at)
            unsafe to.put(reason, at: at + 1)
            at += 5
        }
        let systemChanged =
            unsafe memcmp(system, previousSystem, RowLayout.systemWordCount * 8) != 0
        var flagByte = flags.intersection(.defined).rawValue
        if systemChanged { flagByte |= ExitRowFlag.systemRegisters }
        unsafe to.put(flagByte, at: at)
        unsafe to.put(rewind, at: at + 1)
        at += 2

        var mask: UInt32 = 0
        for index in 0..<RowLayout.registerCount {
            let old = unsafe state.load(fromByteOffset: index * 8, as: UInt64.self)
            let new = unsafe registers.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)
            mask |= (old != new ? 1 : 0) << UInt32(index)
        }
        unsafe to.put(mask, at: at)
        at += 4
        while mask != 0 {
            let index = mask.trailingZeroBitCount
            let new = unsafe registers.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)
            unsafe to.put(new, at: at)
            unsafe state.storeBytes(of: new, toByteOffset: index * 8, as: UInt64.self)
            at += 8
            mask &= mask &- 1
        }
        if systemChanged { at += unsafe Self.putSystem(system, previousSystem, to + at) }
        return unsafe at + Self.putDetail(detail, to + at)
    }

    /// The mask of changed system words and their values.
    @inline(never)
    private static func putSystem(
        _ system: UnsafeRawPointer, _ previous: UnsafeMutableRawPointer,
        _ to: UnsafeMutableRawPointer
    ) -> Int {
        var mask: UInt64 = 0
        var at = 8
        for index in 0..<RowLayout.systemWordCount {
            // SAFETY: both hold 39 words.
            let new = unsafe system.loadUnaligned(fromByteOffset: index * 8, as: UInt64.self)
            let old = unsafe previous.load(fromByteOffset: index * 8, as: UInt64.self)
            if new == old { continue }
            mask |= 1 << UInt64(index)
            unsafe previous.storeBytes(of: new, toByteOffset: index * 8, as: UInt64.self)
            unsafe to.put(new, at: at)
            at += 8
        }
        unsafe to.put(mask, at: 0)
        return at
    }

    /// The part of an exit row that depends on the reason.
    @inline(__always)
    private static func putDetail(
        _ detail: ExitDetail<UnsafeRawBufferPointer>, _ to: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: `to` has room for the longest detail; `copy` checks what it copies.
        switch unsafe detail {
        case .io(let isWrite, let size, let port, let count, let data):
            unsafe to.put(UInt8(isWrite ? 1 : 0), at: 0)
            unsafe to.put(size, at: 1)
            unsafe to.put(port, at: 2)
            unsafe to.put(count, at: 4)
            guard isWrite else { return 8 }
            precondition(data.count == Int(size) * Int(count), "OUT data is size * count bytes")
            return unsafe 8 + copy(data, to: to + 8, atMost: Limits.portDataBytes)
        case .mmio(let address, let length, let isWrite, let value):
            precondition(length <= 8)
            unsafe to.put(length, at: 0)
            unsafe to.put(UInt8(isWrite ? 1 : 0), at: 1)
            unsafe to.put(address.rawValue, at: 2)
            guard isWrite else { return 10 }
            unsafe to.put(value, at: 10)
            return 10 + Int(length)
        case .rdmsr(let index, let why):
            unsafe to.put(index, at: 0)
            unsafe to.put(why, at: 4)
            return 8
        case .wrmsr(let index, let why, let value):
            unsafe to.put(index, at: 0)
            unsafe to.put(why, at: 4)
            unsafe to.put(value, at: 8)
            return 16
        case .hypercall(let number, let isLongMode, let arguments):
            unsafe to.put(UInt8(isLongMode ? 1 : 0), at: 0)
            unsafe to.put(number, at: 1)
            precondition(arguments.count == 48, "a hypercall has six arguments")
            return unsafe 9 + copy(arguments, to: to + 9, atMost: 48)
        case .internalError(let code, let data), .systemEvent(let code, let data):
            precondition(data.count % 8 == 0, "whole words")
            unsafe to.put(code, at: 0)
            unsafe to.put(UInt8(truncatingIfNeeded: data.count / 8), at: 4)
            return unsafe 5 + copy(data, to: to + 5, atMost: Limits.detailWords * 8)
        case .failEntry(let hardwareReason, let cpu):
            unsafe to.put(hardwareReason, at: 0)
            unsafe to.put(cpu, at: 8)
            return 12
        case .exception(let vector, let errorCode):
            unsafe to.put(vector, at: 0)
            unsafe to.put(errorCode, at: 4)
            return 8
        case .debug(let exception, let pc, let dr6, let dr7):
            unsafe to.put(exception, at: 0)
            unsafe to.put(pc, at: 4)
            unsafe to.put(dr6, at: 12)
            unsafe to.put(dr7, at: 20)
            return 28
        case .other(let reason, let data):
            precondition(!RowView.hasLayout(reason.rawValue), "this reason has a case of its own")
            unsafe to.put(UInt16(truncatingIfNeeded: data.count), at: 0)
            return unsafe 2 + copy(data, to: to + 2, atMost: Limits.otherExitBytes)
        }
    }

    @inline(__always)
    private static func copy(
        _ bytes: UnsafeRawBufferPointer, to: UnsafeMutableRawPointer, atMost limit: Int
    ) -> Int {
        precondition(bytes.count <= limit, "more bytes than the format allows")
        // SAFETY: the caller has room for `limit` bytes.
        if let source = bytes.baseAddress {
            unsafe to.copyMemory(from: source, byteCount: bytes.count)
        }
        return bytes.count
    }

    private static func putState(
        _ registers: GeneralRegisters, _ system: SystemRegisters,
        at destination: UnsafeMutableRawPointer
    ) {
        // SAFETY: the caller has room for a row.
        for index in 0..<RowLayout.registerCount {
            unsafe destination.put(registers.words[index], at: index * 8)
        }
        for index in 0..<RowLayout.systemWordCount {
            unsafe destination.put(
                system.words[index], at: (RowLayout.registerCount + index) * 8)
        }
    }

    /// What the world gave back for the last exit of this vCPU; at most 4096 bytes.
    public mutating func answer(
        _ form: AnswerForm, _ data: UnsafeRawBufferPointer, vCPU: UInt8 = 0,
        into destination: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: the caller has room for a row; `copy` checks the length.
        let at = unsafe begin(.answer, vCPU, destination)
        unsafe destination.put(form.rawValue, at: at)
        unsafe destination.put(UInt16(truncatingIfNeeded: data.count), at: at + 1)
        return unsafe at + 3
            + Self.copy(data, to: destination + at + 3, atMost: Limits.answerBytes)
    }

    /// What the runner did in the CPU's place, in order; at most 64 KiB in all.
    public mutating func completion(
        _ changes: [Change], vCPU: UInt8 = 0, into destination: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: the caller has room for a row; the total is checked before each change.
        let begin = unsafe begin(.completion, vCPU, destination)
        precondition(changes.count <= 0xFFFF)
        unsafe destination.put(UInt16(changes.count), at: begin)
        var at = begin + 2
        for change in changes {
            precondition(at + change.encodedBytes <= Limits.completionBytes, "split completions")
            at += unsafe change.put(at: destination + at)
        }
        return at
    }

    /// Something that was injected. A landmark's registers are encoded against the snapshot, which
    /// stays as it is.
    public mutating func interruption(
        _ interruption: Interruption, vCPU: UInt8 = 0, into destination: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: the caller has room for a row, and this one is at most 1300 bytes.
        let to = unsafe destination
        var at = unsafe begin(.interruption, vCPU, to)
        var flags: UInt8 = 0
        if interruption.errorCode != nil { flags |= InterruptionRowFlag.errorCode }
        if interruption.landmark != nil { flags |= InterruptionRowFlag.landmark }
        if interruption.landmark?.progress != nil { flags |= InterruptionRowFlag.progress }
        if interruption.landmark?.instructions != nil {
            flags |= InterruptionRowFlag.instructions
        }
        if interruption.landmark?.parts != nil { flags |= InterruptionRowFlag.parts }
        if interruption.landmark?.stored != nil { flags |= InterruptionRowFlag.stored }
        unsafe to.put(interruption.kind.rawValue, at: at)
        unsafe to.put(interruption.vector, at: at + 1)
        unsafe to.put(flags, at: at + 2)
        at += 3
        if let errorCode = interruption.errorCode {
            unsafe to.put(errorCode, at: at)
            at += 4
        }
        guard let landmark = interruption.landmark else { return at }
        var mask: UInt32 = 0
        let maskAt = at
        at += 4
        let snapshot = unsafe state(vCPU).pointee.registers
        for index in 0..<RowLayout.registerCount
        where landmark.registers.words[index] != snapshot.words[index] {
            mask |= 1 << UInt32(index)
            unsafe to.put(landmark.registers.words[index], at: at)
            at += 8
        }
        unsafe to.put(mask, at: maskAt)
        unsafe to.put(landmark.state.low, at: at)
        unsafe to.put(landmark.state.high, at: at + 8)
        at += 16
        if let progress = landmark.progress {
            unsafe to.put(progress, at: at)
            at += 8
        }
        if let instructions = landmark.instructions {
            unsafe to.put(instructions, at: at)
            at += 8
        }
        if let parts = landmark.parts {
            unsafe to.put(parts.processor, at: at)
            unsafe to.put(parts.memory, at: at + 8)
            let pages = parts.pages?.prefix(LandmarkParts.pageLimit)
            unsafe to.put(
                pages.map { UInt16($0.count) } ?? InterruptionRowFlag.unknownPages, at: at + 16)
            at += 18
            for page in pages ?? [] {
                unsafe to.put(page.number, at: at)
                unsafe to.put(page.hash, at: at + 8)
                at += 16
            }
        }
        if let stored = landmark.stored {
            unsafe to.put(stored.rowCount, at: at)
            unsafe to.put(stored.taskPriorityClass, at: at + 2)
            at += 3
        }
        return at
    }

    /// Bytes that a device put in RAM, at most 64 KiB.
    public mutating func deviceWrite(
        address: GuestPhysicalAddress, _ data: UnsafeRawBufferPointer, vCPU: UInt8 = 0,
        into destination: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: the caller has room for a row; `copy` checks the length.
        let at = unsafe begin(.deviceWrite, vCPU, destination)
        unsafe destination.put(address.rawValue, at: at)
        unsafe destination.put(UInt32(truncatingIfNeeded: data.count), at: at + 8)
        return unsafe at + 12
            + Self.copy(data, to: destination + at + 12, atMost: Limits.deviceWriteBytes)
    }

    /// The end of the run; its registers become the snapshot.
    public mutating func end(
        _ end: EndRecord, memory: Digest128?, into destination: UnsafeMutableRawPointer
    ) -> Int {
        // SAFETY: the caller has room for a row, and this one is at most 480 bytes.
        let to = unsafe destination
        var at = unsafe begin(.end, end.vCPU, to)
        var flags: UInt8 = 0
        if end.guestStatus != nil { flags |= EndRowFlag.guestStatus }
        if end.isInMidFlight { flags |= EndRowFlag.midFlight }
        if memory != nil { flags |= EndRowFlag.memory }
        unsafe to.put(end.reason.rawValue, at: at)
        unsafe to.put(flags, at: at + 1)
        at += 2
        if let status = end.guestStatus {
            unsafe to.put(status, at: at)
            at += 4
        }
        unsafe Self.putState(end.registers, end.system, at: to + at)
        at += RowLayout.stateBytes
        setSnapshot(registers: end.registers, system: end.system, vCPU: end.vCPU)
        guard let memory else { return at }
        unsafe to.put(memory.low, at: at)
        unsafe to.put(memory.high, at: at + 8)
        return at + 16
    }
}
