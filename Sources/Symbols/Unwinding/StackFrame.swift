public import Machine

/// One function on the stack.
public struct StackFrame: Sendable {
    /// 0 for the innermost, counted outwards.
    public var number: Int
    /// The linear address of the instruction that runs next in this frame: where the CPU stands,
    /// or where a call returns to.
    public var address: GuestVirtualAddress
    /// The address whose name and place are this frame's: that of the call, for a frame that
    /// called; ``address`` otherwise.
    public var lookupAddress: GuestVirtualAddress
    /// The canonical frame address: the stack pointer before the call that made this frame. Nil
    /// for the last frame, and wherever it could not be found.
    public var canonicalFrameAddress: UInt64?
    /// The registers as they are in this frame, RIP an offset in CS; those that are not known
    /// are zero.
    public var registers: GeneralRegisters
    /// A bit for each register that is known, by ``Machine/Register``'s raw value.
    public var knownRegisters: UInt32
    /// The function, offset and source; the offset is that of ``address``. Nil where no symbol
    /// is near.
    public var name: SymbolizedAddress?
    /// How the frame was found.
    public var source: Source
    /// Whether the code was interrupted, or is where the CPU stands; false where it called.
    public var isExact: Bool

    /// How a frame was found, the surest first. The raw value is what people are shown.
    public enum Source: String, CaseIterable, Sendable {
        /// The CPU's own registers.
        case registers
        /// By call frame information.
        case callFrameInformation = "cfi"
        /// The function had just begun, or just ended: the return address is on top of the stack.
        case functionEntry = "entry"
        /// By following the instructions up to RET.
        case followedCode = "code"
        /// By following the instructions up to IRET: what comes after was interrupted.
        case interruptReturn = "iret"
        /// By the chain of frame pointers.
        case framePointer = "frame-pointer"
        /// What looks like an interrupt frame was found above the stack pointer. A guess.
        case interruptGuess = "interrupt-guess"
        /// The word on top of the stack stands after a call instruction. A guess.
        case stackGuess = "guess"

        /// Whether the frame may be wrong, and those beyond it with it.
        public var isGuess: Bool { self == .interruptGuess || self == .stackGuess }
    }

    /// A register; nil where it is not known.
    public subscript(register: Register) -> UInt64? {
        knownRegisters & 1 << UInt32(register.rawValue) != 0 ? registers[register] : nil
    }
}

/// The functions on a stack, the innermost first, and why there are no more.
public struct Backtrace: Sendable {
    /// At least one: where the CPU stands.
    public var frames: [StackFrame]
    /// Why it ends.
    public var end: End

    /// Why a backtrace ends.
    public enum End: Equatable, Sendable {
        /// The outermost function: nothing called it, by call frame information or by a frame
        /// pointer or return address of zero.
        case outermost
        /// Memory at a linear address, where the next frame should be, is not mapped.
        case unreadable(GuestVirtualAddress)
        /// There is no call frame information for the last frame, and nothing on its stack looks
        /// like the frame that called it.
        case lost
        /// The next frame would be one that was there already: the stack is damaged.
        case loop
        /// As many frames as were asked for.
        case limit
        /// The last frame is 16-bit code, which keeps no record that could be followed.
        case sixteenBit
    }

    /// Whether the outermost function was reached.
    public var isComplete: Bool { end == .outermost }

    /// Why it ends, in words; nil where it is complete.
    public var endText: String? {
        switch end {
        case .outermost: nil
        case .unreadable(let address):
            "the stack at \(hexadecimal(address.rawValue)) is not mapped"
        case .lost:
            "no call frame information, and nothing on the stack looks like a caller"
        case .loop: "the next frame was there before: the stack is damaged"
        case .limit: "more frames than were asked for"
        case .sixteenBit: "16-bit code keeps no frames that could be followed"
        }
    }
}
