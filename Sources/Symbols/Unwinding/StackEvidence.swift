internal import Disassembly
internal import Machine

/// What makes a number on the stack look like a return address or an interrupt frame.
struct StackEvidence {
    let context: UnwindContext
    /// The guest's descriptor table, to tell code segments by.
    let descriptors: DescriptorTable

    /// Whether the code before an address is a call: what any return address has.
    func isReturnAddress(_ offset: UInt64, _ memory: UnwindMemory) -> Bool {
        let length = Disassembler.longestCall
        guard offset > length, context.isCanonical(offset) else { return false }
        let bytes = memory(GuestVirtualAddress(context.code(offset &- UInt64(length))), length)
        return context.disassembler?.endsInCall(bytes) ?? false
    }

    /// The registers that an interrupt pushed, from the stack offset of its RIP on (Intel SDM
    /// vol. 3, 6.12.1 and 6.14.2); nil where what is there cannot be an interrupt frame.
    func interruptFrame(at offset: UInt64, _ memory: UnwindMemory) -> InterruptFrame? {
        let size = context.wordSize
        func word(_ index: UInt64) -> UInt64? {
            readNumber(context.stack(offset &+ index * size), size, memory)
        }
        guard let rip = word(0), let code = word(1), let flags = word(2),
            code & ~0xFFFF == 0, flags & ~Self.flagBits == 0, flags & 2 != 0
        else { return nil }
        let selector = UInt16(code)
        guard let target = context(for: selector, memory) else { return nil }
        let isInner = context.width == .bits64 || selector & 3 > context.codeSelector & 3
        var frame = InterruptFrame(
            rip: rip, rsp: context.truncated(offset &+ 3 * size), flags: flags, context: target)
        if isInner {
            guard let rsp = word(3), let stack = word(4), stack & ~0xFFFF == 0,
                target.isCanonical(rsp)
            else { return nil }
            // Ring 0 of 64-bit code may run with a null SS.
            guard stack & 3 == code & 3 || stack == 0, stack != code else { return nil }
            frame.rsp = rsp
        }
        // What was interrupted must be an instruction.
        guard target.isCanonical(rip), rip != 0 else { return nil }
        let bytes = memory(GuestVirtualAddress(target.code(rip)), Disassembler.maximumLength)
        guard let instruction = target.disassembler?.decode(bytes, at: GuestVirtualAddress(rip)),
            instruction.kind != .bad
        else { return nil }
        return frame
    }

    /// How code runs with a selector in CS; nil where it names no code segment.
    private func context(for selector: UInt16, _ memory: UnwindMemory) -> UnwindContext? {
        if selector == context.codeSelector { return context }
        // The null selector is no code, and local tables are not looked up.
        guard selector & 0xFFFC != 0, selector & 4 == 0, selector | 7 <= descriptors.limit,
            let entry = readNumber(
                descriptors.base &+ UInt64(selector & 0xFFF8), 8, memory)
        else { return nil }
        // Present, a code or data segment, executable (Intel SDM vol. 3, 3.4.5).
        guard entry >> 43 & 0b11 == 0b11, entry >> 47 & 1 != 0 else { return nil }
        var found = context
        found.codeSelector = selector
        let isLong = entry >> 53 & 1 != 0
        found.width = isLong ? .bits64 : entry >> 54 & 1 != 0 ? .bits32 : .bits16
        found.codeBase = isLong ? 0 : entry >> 16 & 0xFF_FFFF | entry >> 32 & 0xFF00_0000
        found.stackBase = isLong ? 0 : found.stackBase
        return found
    }

    /// The bits of RFLAGS that can be set (Intel SDM vol. 1, 3.4.3).
    private static let flagBits: UInt64 = 0x3F_7FD7
}

/// What an interrupt pushed.
struct InterruptFrame {
    var rip: UInt64
    var rsp: UInt64
    var flags: UInt64
    /// How the interrupted code runs.
    var context: UnwindContext
}

extension UnwindContext {
    /// For this code; nil for 16-bit code, which is not followed.
    var disassembler: Disassembler? {
        switch width {
        case .bits16: nil
        case .bits32: Disassembler(.protected32)
        case .bits64: Disassembler(.long64)
        }
    }
}
