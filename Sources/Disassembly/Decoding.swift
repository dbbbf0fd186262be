internal import CZydis

/// What the decoder says of one instruction, without anything that needs memory of its own.
struct Decoded {
    var fields: czydis_instruction

    var length: Int { Int(fields.length) }
    var isRepeated: Bool { fields.has_rep != 0 }
    /// Whether an operand in memory is written; known only where operands were decoded.
    var writesMemory: Bool { fields.writes_memory != 0 }
    /// The width of that operand in bytes.
    var writtenBytes: Int { Int(fields.memory_width_bytes) }
    /// Where a direct branch goes, or the address of a RIP-relative operand.
    var target: UInt64? { fields.has_target != 0 ? fields.target : nil }

    /// Mnemonics with a kind of their own; the rest are ``Instruction/Kind/other``.
    var kind: Instruction.Kind {
        switch Int(fields.mnemonic) {
        case Int(CZYDIS_IN): .portIn
        case Int(CZYDIS_OUT): .portOut
        case Int(CZYDIS_INSB), Int(CZYDIS_INSW), Int(CZYDIS_INSD): .portInString
        case Int(CZYDIS_OUTSB), Int(CZYDIS_OUTSW), Int(CZYDIS_OUTSD): .portOutString
        case Int(CZYDIS_HLT): .hlt
        case Int(CZYDIS_CPUID): .cpuid
        case Int(CZYDIS_RDTSC): .rdtsc
        case Int(CZYDIS_RDTSCP): .rdtscp
        case Int(CZYDIS_RDRAND): .rdrand
        case Int(CZYDIS_RDSEED): .rdseed
        case Int(CZYDIS_RDPMC): .rdpmc
        case Int(CZYDIS_RDMSR): .rdmsr
        case Int(CZYDIS_WRMSR): .wrmsr
        case Int(CZYDIS_INT3): .int3
        case Int(CZYDIS_INT): .int
        case Int(CZYDIS_IRET), Int(CZYDIS_IRETD), Int(CZYDIS_IRETQ): .iret
        case Int(CZYDIS_SYSCALL): .syscall
        case Int(CZYDIS_SYSRET): .sysret
        case Int(CZYDIS_CALL): .call
        case Int(CZYDIS_RET): .ret
        case Int(CZYDIS_JMP): .jmp
        default: .other
        }
    }

    /// Bit 0 of the eight port opcodes tells byte from word or double word, bit 3 of E4–EF a
    /// port in DX from one in the instruction (Intel SDM vol. 2, IN, OUT, INS, OUTS).
    var portAccess: PortAccess? {
        let kind = self.kind
        let direction: PortAccess.Direction
        switch kind {
        case .portIn, .portInString: direction = .input
        case .portOut, .portOutString: direction = .output
        default: return nil
        }
        let size = fields.opcode & 1 == 0 ? 1 : fields.operand_width == 16 ? 2 : 4
        let isString = kind == .portInString || kind == .portOutString
        let isImmediate = !isString && fields.opcode & 8 == 0
        return PortAccess(
            direction: direction, sizeInBytes: size,
            port: isImmediate ? UInt8(truncatingIfNeeded: fields.immediate) : nil,
            isString: isString)
    }
}

extension Disassembler {
    /// Decodes the instruction that starts at `offset`, without operands or text.
    func decodeQuickly(_ bytes: Span<UInt8>, at offset: Int) -> Decoded? {
        guard offset >= 0, offset < bytes.count else { return nil }
        var fields = czydis_instruction()
        let status = unsafe bytes.withUnsafeBytes { buffer in
            // SAFETY: the pointer and the count describe the part of the span from `offset` on,
            // which is within it by the guard above; the C side reads no further and keeps none.
            unsafe czydis_decode(
                width.bits, width == .real16 ? 1 : 0, buffer.baseAddress?.advanced(by: offset),
                buffer.count - offset, &fields)
        }
        return status == Int32(CZYDIS_OK) ? Decoded(fields: fields) : nil
    }

    /// Decodes the instruction that starts at `offset` with its operands, and its text if asked.
    func decodeFully(
        _ bytes: Span<UInt8>, at offset: Int, address: UInt64, text: inout String?
    ) -> Decoded? {
        guard offset >= 0, offset < bytes.count else { return nil }
        var fields = czydis_instruction()
        let wantsText = text != nil
        var written: String?
        let status = unsafe bytes.withUnsafeBytes { buffer in
            unsafe withUnsafeTemporaryAllocation(
                of: CChar.self, capacity: Int(CZYDIS_TEXT_CAPACITY)
            ) { characters in
                // SAFETY: as in decodeQuickly; `characters` has the CZYDIS_TEXT_CAPACITY bytes
                // that the C side may write, and ends with a zero when it returns CZYDIS_OK.
                let status = unsafe czydis_decode_full(
                    width.bits, width == .real16 ? 1 : 0, syntax == .att ? 1 : 0, address,
                    buffer.baseAddress?.advanced(by: offset), buffer.count - offset, &fields,
                    wantsText ? characters.baseAddress : nil)
                if status == Int32(CZYDIS_OK), wantsText, let base = characters.baseAddress {
                    written = unsafe String(cString: base)
                }
                return status
            }
        }
        guard status == Int32(CZYDIS_OK) else { return nil }
        text = written
        return Decoded(fields: fields)
    }

    /// The mnemonic of what was decoded.
    func mnemonic(of decoded: Decoded) -> String {
        // SAFETY: the C side returns a string of static storage, never null.
        unsafe String(cString: czydis_mnemonic(decoded.fields.mnemonic))
    }
}
