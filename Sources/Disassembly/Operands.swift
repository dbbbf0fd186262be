internal import CZydis
public import Machine

/// An instruction as something to carry out: mnemonic and operands, no text.
public struct DecodedInstruction: Equatable, Sendable {
    /// The mnemonic in lower case.
    public var mnemonic: String
    /// Its length in bytes, prefixes included.
    public var length: Int
    /// The effective width of addresses in bits: 16, 32 or 64.
    public var addressWidth: Int
    /// The operands that the instruction names, in Intel's order: the destination first.
    public var operands: [Operand]
}

/// What an instruction works on.
public struct Operand: Equatable, Sendable {
    /// Which place, or which value.
    public var place: Place
    /// Its width in bits; 0 where there is none.
    public var widthInBits: Int

    /// Makes an operand.
    public init(_ place: Place, widthInBits: Int) {
        self.place = place
        self.widthInBits = widthInBits
    }

    /// Where an operand is.
    public enum Place: Equatable, Sendable {
        /// The low bits of a general-purpose register; bits 8–15 for AH, CH, DH and BH.
        case register(Register, isHighByte: Bool)
        /// In memory.
        case memory(MemoryReference)
        /// In the instruction; extended to 64 bits.
        case immediate(UInt64)
        /// A register that is no general-purpose one, or a far pointer.
        case other
    }
}

/// How an instruction computes an address (Intel SDM vol. 1, 3.7.5).
public struct MemoryReference: Equatable, Sendable {
    /// The segment that the offset is in, overrides applied.
    public var segment: SystemRegisters.SegmentName
    /// The base register, ``Machine/Register/rip`` for the address of the next instruction.
    public var base: Register?
    /// The index register.
    public var index: Register?
    /// What the index is multiplied by: 1, 2, 4 or 8; 0 without one.
    public var scale: UInt64
    /// What is added, sign-extended.
    public var displacement: Int64

    /// Makes a reference.
    public init(
        segment: SystemRegisters.SegmentName, base: Register?, index: Register? = nil,
        scale: UInt64 = 0, displacement: Int64 = 0
    ) {
        self.segment = segment
        self.base = base
        self.index = index
        self.scale = scale
        self.displacement = displacement
    }
}

extension Disassembler {
    /// Decodes the instruction that starts at the first byte, to be carried out.
    ///
    /// - Returns: nil where there is none, or it addresses memory by vector registers.
    public func decodeOperands(_ bytes: [UInt8]) -> DecodedInstruction? {
        var fields = czydis_instruction()
        let blank = czydis_operand()
        var operands: InlineArray<5, czydis_operand> = InlineArray(repeating: blank)
        let count = unsafe bytes.withUnsafeBytes { bytes in
            unsafe withUnsafeMutableBytes(of: &operands) { operands in
                // SAFETY: pointer and count are those of the bytes; the array has
                // CZYDIS_OPERAND_CAPACITY elements, as many as the C side may write.
                guard let first = operands.baseAddress else { return Int32(-1) }
                return unsafe czydis_decode_operands(
                    width.bits, width == .real16 ? 1 : 0, bytes.baseAddress, bytes.count, &fields,
                    first.assumingMemoryBound(to: czydis_operand.self))
            }
        }
        guard count >= 0 else { return nil }
        let decoded = Decoded(fields: fields)
        var result = DecodedInstruction(
            mnemonic: mnemonic(of: decoded), length: decoded.length,
            addressWidth: Int(fields.address_width), operands: [])
        for index in 0..<min(Int(count), 5) {
            guard let operand = Self.operand(operands[index]) else { return nil }
            result.operands.append(operand)
        }
        return result
    }

    private static func operand(_ from: czydis_operand) -> Operand? {
        let place: Operand.Place
        switch Int(from.kind) {
        case Int(CZYDIS_OPERAND_REGISTER):
            guard let register = register(from.reg) else { return nil }
            place = .register(register, isHighByte: from.is_high_byte != 0)
        case Int(CZYDIS_OPERAND_IMMEDIATE): place = .immediate(from.immediate)
        case Int(CZYDIS_OPERAND_MEMORY):
            guard Int(from.segment) < segments.count else { return nil }
            place = .memory(
                MemoryReference(
                    segment: segments[Int(from.segment)],
                    base: from.base == UInt8(CZYDIS_RIP) ? .rip : register(from.base),
                    index: register(from.index), scale: UInt64(from.scale),
                    displacement: from.displacement))
        default: place = .other
        }
        return Operand(place, widthInBits: Int(from.width))
    }

    /// By the numbers that instructions encode (Intel SDM vol. 2, table 3-1).
    static func register(_ number: UInt8) -> Register? {
        Int(number) < registers.count ? registers[Int(number)] : nil
    }

    private static let registers: [Register] = [
        .rax, .rcx, .rdx, .rbx, .rsp, .rbp, .rsi, .rdi,
        .r8, .r9, .r10, .r11, .r12, .r13, .r14, .r15,
    ]

    /// By the numbers that MOV Sreg encodes (Intel SDM vol. 2, table B-8).
    static let segments: [SystemRegisters.SegmentName] = [.es, .cs, .ss, .ds, .fs, .gs]
}
