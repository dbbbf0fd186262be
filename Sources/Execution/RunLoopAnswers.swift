internal import Disassembly
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// One exit told to the listener and answered by the world: what ``RunLoop`` does at each.
extension RunLoop {
    // Each tells the listener of the exit, has the world answer it, and tells the listener the
    // answer; false where the listener had enough.
    //
    // SAFETY (all of them): the pointers are into the run page, which the CPU owns and KVM changes
    // only in the next run; the calls below end before that.

    @inline(__always)
    mutating func handle<CPU, Side>(
        _ io: PortIO, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let registers = unsafe cpu.registersPointer
        let system = unsafe cpu.systemRegistersPointer
        let isWrite = io.direction == .output
        let size = Int(io.size)
        let mayBeTrap = isWrite && traps.mayBe(io)
        var rewind: UInt8 = 0
        if Side.isListening || mayBeTrap {
            if !Side.isListening { try refresh(&cpu) }
            rewind = unsafe finder.rewind(
                portAccess: isWrite ? .output : .input, port: io.port, size: size,
                count: Int(io.count), registers: registers, system: system, memory: memory)
        }
        if mayBeTrap,
            let trapped = unsafe traps.instruction(
                at: registers.pointee.rip &- UInt64(rewind), io, system: system.pointee,
                memory: memory)
        {
            return try unsafe complete(
                trapped, io, &cpu, &side, rewind: rewind, registers: registers, system: system,
                entered: entered, returned: returned)
        }
        return try cpu.withIOData { (data: inout MutableRawSpan) throws(ExecutionError) in
            try unsafe data.withUnsafeMutableBytes { bytes throws(ExecutionError) in
                let sent = unsafe UnsafeRawBufferPointer(
                    start: bytes.baseAddress, count: isWrite ? bytes.count : 0)
                guard
                    try unsafe side.exit(
                        .io(
                            isWrite: isWrite, size: UInt8(size), port: io.port,
                            count: UInt32(io.count), data: sent), flags: [], rewind: rewind,
                        registers: registers, system: system, entered: entered,
                        returned: returned)
                else { return false }
                if isWrite {
                    try unsafe side.portOut(io.port, size: size, bytes: sent)
                    return true
                }
                try unsafe side.portIn(io.port, size: size, into: bytes)
                return try unsafe side.answer(.io, UnsafeRawBufferPointer(bytes))
            }
        }
    }

    @inline(__always)
    mutating func handle<CPU, Side>(
        _ mmio: MMIO, _ cpu: inout CPU, _ side: inout Side, memory: borrowing GuestMemory,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        let registers = unsafe cpu.registersPointer
        let system = unsafe cpu.systemRegistersPointer
        let length = Int(mmio.size)
        let rewind =
            Side.isListening
            ? unsafe finder.rewind(
                memoryAccess: mmio.isWrite, length: length, registers: registers, system: system,
                memory: memory) : 0
        var value = mmio.isWrite ? cpu.mmioValue : 0
        guard
            try unsafe side.exit(
                .mmio(
                    address: mmio.address, length: UInt8(length), isWrite: mmio.isWrite,
                    value: value),
                flags: [], rewind: rewind, registers: registers, system: system, entered: entered,
                returned: returned)
        else { return false }
        let isAnswered = try unsafe withUnsafeMutableBytes(of: &value) {
            bytes throws(ExecutionError) -> Bool in
            let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[..<length])
            if mmio.isWrite {
                try unsafe side.memoryWrite(mmio.address, bytes: UnsafeRawBufferPointer(bytes))
                return true
            }
            try unsafe side.memoryRead(mmio.address, into: bytes)
            return try unsafe side.answer(.mmio, UnsafeRawBufferPointer(bytes))
        }
        if mmio.isWrite {
            if hasLocalAPIC { linkTaskPriority(mmio, value, &cpu) }
        } else {
            cpu.mmioValue = value
        }
        return isAnswered
    }

    /// The task priority register and CR8 are one register of the CPU: what is written to the first
    /// shows in the second (Intel SDM vol. 3, 12.8.6.1). A rule of the CPU's own, and so the same on
    /// replay, where there is no APIC.
    @inline(never)
    private func linkTaskPriority<CPU: Processor & ~Copyable>(
        _ mmio: MMIO, _ value: UInt64, _ cpu: inout CPU
    ) {
        let base = cpu.apicBase
        guard base >> 11 & 1 != 0, mmio.size >= 4,
            mmio.address.rawValue == base & 0x000F_FFFF_FFFF_F000 | 0x80
        else { return }
        cpu.taskPriorityClass = value >> 4 & 15
    }

    /// Puts system registers on the page in a run that nobody listens to, where an exit needs them.
    @inline(never)
    func refresh<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU
    ) throws(ExecutionError) {
        try kvm { () throws(KVMError) in try cpu.refreshSystemRegisters() }
    }

    @inline(never)
    mutating func handleOther<CPU, Side>(
        _ cpu: inout CPU, _ side: inout Side, entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        if !Side.isListening { try refresh(&cpu) }
        let registers = unsafe cpu.registersPointer
        let system = unsafe cpu.systemRegistersPointer
        switch other {
        case .rdmsr(let access):
            guard
                try unsafe side.exit(
                    .rdmsr(index: access.index, why: access.cause), flags: [], rewind: 0,
                    registers: registers, system: system, entered: entered, returned: returned)
            else { return false }
            let value = try side.readMSR(access.index)
            cpu.answerMSR(value ?? 0, fault: value == nil)
            return try answerMSR(value, &side)
        case .wrmsr(let access):
            guard
                try unsafe side.exit(
                    .wrmsr(index: access.index, why: access.cause, value: access.value),
                    flags: [], rewind: 0, registers: registers, system: system, entered: entered,
                    returned: returned)
            else { return false }
            let isTaken = try side.writeMSR(access.index, access.value)
            cpu.answerMSR(0, fault: !isTaken)
            return try answerMSR(isTaken ? 0 : nil, &side)
        case .setTPR:
            // CR8 was lowered, on hosts that tell of it; nobody answers.
            return try unsafe side.exit(
                .plain(.setTPR), flags: [], rewind: 0, registers: registers, system: system,
                entered: entered, returned: returned)
        default:
            unansweredExit = other
            return try unsafe reportUnanswered(
                other, cpu, &side, registers: registers, system: system, entered: entered,
                returned: returned)
        }
    }

    /// An instruction that was rewritten to an OUT: its answer goes where it would have put it.
    private mutating func complete<CPU, Side>(
        _ trapped: RewriteTraps.Instruction, _ io: PortIO, _ cpu: inout CPU, _ side: inout Side,
        rewind: UInt8, registers: UnsafePointer<GeneralRegisters>,
        system: UnsafePointer<SystemRegisters>, entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: World & RunListener & ~Copyable {
        // SAFETY (whole function): see `handle`; buffers are local values or the run page's.
        let isTaken = try cpu.withIOData { (data: inout MutableRawSpan) throws(ExecutionError) in
            try unsafe data.withUnsafeMutableBytes { bytes throws(ExecutionError) in
                try unsafe side.exit(
                    .io(
                        isWrite: true, size: 1, port: io.port, count: 1,
                        data: UnsafeRawBufferPointer(bytes)),
                    flags: .rewrittenInstruction, rewind: rewind, registers: registers,
                    system: system, entered: entered, returned: returned)
            }
        }
        guard isTaken else { return false }
        var after = unsafe registers.pointee
        let isAnswered: Bool
        switch trapped {
        case .timeStamp:
            var value = try side.timeStamp()
            after[.rax] = value & 0xFFFF_FFFF
            after[.rdx] = value >> 32
            isAnswered = try unsafe withUnsafeBytes(of: &value) { bytes throws(ExecutionError) in
                try unsafe side.answer(.timeStamp, bytes)
            }
        case .cpuid:
            var answer = try unsafe side.cpuid(
                function: UInt32(truncatingIfNeeded: after[.rax]),
                index: UInt32(truncatingIfNeeded: after[.rcx]), system: system.pointee)
            for (index, register) in [Register.rax, .rbx, .rcx, .rdx].enumerated() {
                after[register] = UInt64(answer.words[index])
            }
            isAnswered = try unsafe withUnsafeBytes(of: &answer.words) {
                bytes throws(ExecutionError) in
                try unsafe side.answer(.cpuid, bytes)
            }
        }
        guard isAnswered else { return false }
        do throws(KVMError) {
            let isReplaced = try cpu.replaceRegistersAfterOut(after)
            precondition(isReplaced, "a rewritten instruction is an OUT of count 1")
        } catch { throw .kvm(error) }
        return true
    }

    /// The trace's form of an MSR answer: one byte of fault, then the value.
    private func answerMSR<Side: RunListener & ~Copyable>(
        _ value: UInt64?, _ side: inout Side
    ) throws(ExecutionError) -> Bool {
        var bytes: InlineArray<9, UInt8> = InlineArray(repeating: 0)
        bytes[0] = value == nil ? 1 : 0
        for index in 0..<8 {
            bytes[index + 1] = UInt8(truncatingIfNeeded: (value ?? 0) >> UInt64(index * 8))
        }
        return try unsafe withUnsafeBytes(of: &bytes) { bytes throws(ExecutionError) in
            // SAFETY: the buffer is the local array, alive through the call.
            try unsafe side.answer(.msr, bytes)
        }
    }

    /// Reasons whose payload KVM documents and vmtape decodes: an exit of one of them that could not
    /// be decoded is no exit of an unknown kind, and cannot be recorded as one.
    private static func hasPayloadOfItsOwn(_ reason: ExitReason) -> Bool {
        switch reason {
        case .io, .mmio, .rdmsr, .wrmsr, .hypercall, .internalError, .failEntry, .systemEvent,
            .exception, .debug:
            true
        default: false
        }
    }

    /// Exits that nobody answers: the guest stops, or the run ends with them.
    @inline(never)
    private mutating func reportUnanswered<CPU, Side>(
        _ exit: Exit, _ cpu: borrowing CPU, _ side: inout Side,
        registers: UnsafePointer<GeneralRegisters>, system: UnsafePointer<SystemRegisters>,
        entered: UInt64, returned: UInt64
    ) throws(ExecutionError) -> Bool
    where CPU: Processor & ~Copyable, Side: RunListener & ~Copyable {
        let rewind: UInt8
        if case .hlt = exit {
            unsafe rewind = finder.rewindOfHLT(system: system)
        } else {
            rewind = 0
        }
        var wordCount = 0
        switch exit {
        case .internalError(let error):
            words = error.data
            wordCount = error.count
            // The last word of these two is the host CPU that the guest ran on: observed, and
            // not part of what must be equal (arch/x86/kvm: last_vmentry_cpu).
            if error.suberror == 3 || error.suberror == 4, wordCount > 0 {
                words[wordCount - 1] = 0
            }
        case .systemEvent(let event):
            words = event.data
            wordCount = event.count
        case .hypercall(let call):
            for index in 0..<6 { words[index] = call.arguments[index] }
            wordCount = 6
        case .other(let reason) where Self.hasPayloadOfItsOwn(reason):
            throw .kvm(.malformed("KVM_EXIT \(reason.name) with a payload that is none"))
        default: break
        }
        return try unsafe withUnsafeBytes(of: &words) { words throws(ExecutionError) -> Bool in
            // SAFETY: the buffer is the loop's own array, and `wordCount` is at most 16.
            let data = unsafe UnsafeRawBufferPointer(rebasing: words[..<(wordCount * 8)])
            let detail: ExitDetail<UnsafeRawBufferPointer>
            switch exit {
            case .internalError(let error):
                unsafe detail = .internalError(suberror: error.suberror, data: data)
            case .systemEvent(let event):
                unsafe detail = .systemEvent(type: event.type, data: data)
            case .failEntry(let hardwareReason, _):
                // The CPU number is the host's, and observed.
                unsafe detail = .failEntry(hardwareReason: hardwareReason, cpu: 0)
            case .exception(let vector, let errorCode):
                unsafe detail = .exception(vector: vector, errorCode: errorCode)
            case .debug(let stop):
                // Which of the four breakpoints it was, and what else is armed, is a matter of who
                // looks: a replay that searches or travels has others in the registers.
                let status = stop.dr6 & 0xF == 0 ? stop.dr6 : stop.dr6 & ~0xF | 1
                unsafe detail = .debug(
                    exception: stop.exception, pc: stop.pc.rawValue, dr6: status, dr7: 0)
            case .hypercall(let call):
                unsafe detail = .hypercall(
                    number: call.number, isLongMode: call.isLongMode, arguments: data)
            case .hlt, .shutdown:
                unsafe detail = .plain(exit.reason)
            default:
                return try cpu.withPayload { payload throws(ExecutionError) in
                    try unsafe payload.withUnsafeBytes { bytes throws(ExecutionError) in
                        try unsafe side.exit(
                            .other(exit.reason, data: bytes), flags: [], rewind: 0,
                            registers: registers,
                            system: system, entered: entered, returned: returned)
                    }
                }
            }
            return try unsafe side.exit(
                detail, flags: [], rewind: rewind, registers: registers, system: system,
                entered: entered,
                returned: returned)
        }
    }
}
