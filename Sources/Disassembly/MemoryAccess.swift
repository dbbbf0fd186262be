internal import CZydis
public import Machine

/// The memory that an instruction reads and writes.
public struct MemoryAccesses: Equatable, Sendable {
    /// The instruction's length in bytes, prefixes included.
    public var length: Int
    /// The effective width of addresses in bits: 16, 32 or 64.
    public var addressWidth: Int
    /// It has a REP, REPE or REPNE prefix that takes effect.
    public var isRepeated: Bool
    /// Each piece of it.
    public var pieces: [MemoryAccess]
}

/// A piece of memory that an instruction reads or writes, whether it names it or not.
public struct MemoryAccess: Equatable, Sendable {
    /// What decides where the piece is, beyond the reference.
    public enum Role: Equatable, Sendable {
        /// Nothing.
        case operand
        /// It ends where the stack pointer stands before; the stack segment says how wide that is.
        case push
        /// It begins there.
        case pop
        /// The base register moves by the piece's length with each iteration.
        case string
        /// AL is added (XLAT).
        case table
    }

    /// Where it is.
    public var reference: MemoryReference
    /// Its length in bytes; of a repeated instruction that of one iteration.
    public var byteCount: Int
    /// It is read, perhaps only under a condition.
    public var isRead: Bool
    /// It is written, perhaps only under a condition.
    public var isWrite: Bool
    /// What else decides where it is.
    public var role: Role
    /// The register that counts bits from the piece on (BT, BTS, BTR, BTC; Intel SDM vol. 2,
    /// "Bit(BitBase, BitOffset)").
    public var bitIndex: Register?
}

extension Disassembler {
    /// Decodes the instruction that starts at the first byte, for what it touches. Not told: what it
    /// fetches, page tables, segment descriptors, and the frame of an event that it raises.
    ///
    /// - Returns: nil where there is none, or it addresses memory by vector registers.
    public func decodeAccesses(_ bytes: [UInt8]) -> MemoryAccesses? {
        var fields = czydis_instruction()
        var accesses: InlineArray<3, czydis_access> = InlineArray(repeating: czydis_access())
        let count = unsafe bytes.withUnsafeBytes { bytes in
            unsafe withUnsafeMutableBytes(of: &accesses) { accesses in
                // SAFETY: pointer and count are those of the bytes; the array has
                // CZYDIS_ACCESS_CAPACITY elements, as many as the C side may write.
                guard let first = accesses.baseAddress else { return Int32(-1) }
                return unsafe czydis_decode_accesses(
                    width.bits, width == .real16 ? 1 : 0, bytes.baseAddress, bytes.count, &fields,
                    first.assumingMemoryBound(to: czydis_access.self))
            }
        }
        guard count >= 0 else { return nil }
        let decoded = Decoded(fields: fields)
        var result = MemoryAccesses(
            length: decoded.length, addressWidth: Int(fields.address_width),
            isRepeated: decoded.isRepeated, pieces: [])
        for index in 0..<min(Int(count), 3) {
            guard let piece = Self.piece(accesses[index]) else { return nil }
            result.pieces.append(piece)
        }
        Self.adjust(&result)
        if mnemonic(of: decoded) == "enter" {
            Self.addDisplay(to: &result, level: Int(fields.second_immediate & 31))
        }
        return result
    }

    private static func piece(_ from: czydis_access) -> MemoryAccess? {
        guard Int(from.segment) < segments.count else { return nil }
        let role: MemoryAccess.Role =
            switch Int(from.role) {
            case Int(CZYDIS_ROLE_PUSH): .push
            case Int(CZYDIS_ROLE_POP): .pop
            case Int(CZYDIS_ROLE_STRING): .string
            case Int(CZYDIS_ROLE_TABLE): .table
            default: .operand
            }
        return MemoryAccess(
            reference: MemoryReference(
                segment: segments[Int(from.segment)],
                base: from.base == UInt8(CZYDIS_RIP) ? .rip : register(from.base),
                index: register(from.index), scale: UInt64(from.scale),
                displacement: from.displacement),
            byteCount: Int(from.width), isRead: from.is_read != 0, isWrite: from.is_write != 0,
            role: role, bitIndex: register(from.bit_index))
    }

    /// Moves what depends on the stack pointer before or after the instruction's own move of it.
    private static func adjust(_ accesses: inout MemoryAccesses) {
        var popped = 0
        for index in accesses.pieces.indices {
            let piece = accesses.pieces[index]
            if piece.role == .push {
                accesses.pieces[index].reference.displacement -= Int64(piece.byteCount)
            }
            if piece.role == .pop, piece.reference.base == .rsp { popped = piece.byteCount }
        }
        // POP to memory computes its address with the stack pointer as it is after (Intel SDM vol.
        // 2, POP).
        for index in accesses.pieces.indices
        where accesses.pieces[index].role == .operand && accesses.pieces[index].isWrite
            && accesses.pieces[index].reference.base == .rsp
        {
            accesses.pieces[index].reference.displacement += Int64(popped)
        }
    }

    /// ENTER at a level above 0 copies frame pointers (Intel SDM vol. 2, ENTER).
    private static func addDisplay(to accesses: inout MemoryAccesses, level: Int) {
        guard level > 0, let first = accesses.pieces.first else { return }
        var pushed = first
        pushed.byteCount = first.byteCount * (level + 1)
        pushed.reference.displacement = -Int64(pushed.byteCount)
        accesses.pieces = [pushed]
        guard level > 1 else { return }
        var read = first
        read.role = .pop
        read.isRead = true
        read.isWrite = false
        read.byteCount = first.byteCount * (level - 1)
        read.reference.base = .rbp
        read.reference.displacement = -Int64(read.byteCount)
        accesses.pieces.append(read)
    }
}
