internal import CZydis

/// Where control may go after an instruction: as much as a walk along a program's flow needs.
public struct InstructionFlow: Equatable, Sendable {
    /// The instruction's length in bytes.
    public var length: Int
    /// What it is, as far as vmtape tells instructions apart.
    public var kind: Instruction.Kind
    /// Where a direct jump, branch or call goes, as an offset in the code segment.
    public var target: UInt64?
    /// Whether the instruction behind it may be next: at once, or when a call returns.
    public var fallsThrough: Bool
}

extension Disassembler {
    /// Decodes the instruction at an offset of `bytes`, without text and without memory of its own.
    ///
    /// - Parameter address: the instruction's offset in the code segment.
    /// - Returns: nil where there is no instruction.
    public func flow(
        _ bytes: Span<UInt8>, at offset: Int, address: UInt64
    ) -> InstructionFlow? {
        guard let decoded = decodeQuickly(bytes, at: offset) else { return nil }
        let kind = decoded.kind
        var flow = InstructionFlow(
            length: decoded.length, kind: kind, target: nil, fallsThrough: true)
        switch kind {
        case .jmp, .ret, .iret, .sysret: flow.fallsThrough = false
        default: break
        }
        guard decoded.isDirectBranch else { return flow }
        let next = address &+ UInt64(decoded.length)
        let mask: UInt64 =
            width == .long64
            ? .max : decoded.fields.operand_width == 16 ? 0xFFFF : 0xFFFF_FFFF
        flow.target = (next &+ decoded.fields.immediate) & mask
        return flow
    }
}

extension Decoded {
    /// Whether it is a jump, branch or call relative to the next instruction (Intel SDM vol. 2,
    /// appendix A: 70–7F, E0–E3, E8, E9, EB; 0F 80–8F).
    fileprivate var isDirectBranch: Bool {
        switch (fields.opcode_map, fields.opcode) {
        case (0, 0x70...0x7F), (0, 0xE0...0xE3), (0, 0xE8), (0, 0xE9), (0, 0xEB): true
        case (1, 0x80...0x8F): true
        default: false
        }
    }
}
