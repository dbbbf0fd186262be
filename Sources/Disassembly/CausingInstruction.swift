/// What an exit says about the instruction that caused it.
public enum CausingInstruction: Equatable, Sendable {
    /// KVM_EXIT_IO: the direction, bytes per access, the port, and DX as it is after the
    /// instruction (none of the port instructions changes it). The exit does not tell IN and OUT
    /// from INS and OUTS where the count is 1, so `isString` may be nil.
    case portAccess(
        PortAccess.Direction, sizeInBytes: Int, port: UInt16, dx: UInt16, isString: Bool?)
    /// KVM_EXIT_MMIO, a write of so many bytes. An instruction may write more than one exit says.
    case memoryWrite(sizeInBytes: Int)
    /// KVM_EXIT_HLT.
    case halt
    /// Anything: only how well an instruction fits what stands before it decides.
    case any
}

extension Disassembler {
    /// How far back the bytes before RIP help to tell candidates apart. Code that is decoded
    /// from a wrong offset falls into step with the real one within a few instructions.
    public static let usefulHistory = 64

    /// The length of the instruction that ends where the bytes end: for hosts that report RIP
    /// after the instruction that caused an exit.
    ///
    /// Every length from 1 to 15 is tried: the last bytes must be one instruction that does what
    /// the exit says. Where more than one length fits (`E6 EE` is `out 0xEE, al`, and its last
    /// byte alone is `out dx, al`), the bytes before decide: each offset in them is decoded
    /// onwards, and the candidate that most of them arrive at wins; at a tie a REP prefix is
    /// taken for one, else the shorter instruction wins. No memory is allocated.
    ///
    /// - Parameters:
    ///   - bytes: code up to RIP, not beyond it; about ``usefulHistory`` bytes of it are used.
    ///   - cause: what the exit says.
    ///   - startsAtInstruction: whether the first byte is known to start an instruction (of a
    ///     function, say). Then the answer is exact, if all of it is code; all bytes are used.
    /// - Returns: the length in bytes, nil where no instruction that ends there fits.
    public func lengthOfInstruction(
        endingIn bytes: Span<UInt8>, cause: CausingInstruction, startsAtInstruction: Bool = false
    ) -> Int? {
        let end = bytes.count
        let longest = longestCandidate(endingIn: bytes, cause: cause)
        guard longest > 0 else { return nil }
        var candidates: UInt16 = 0
        var repeated: UInt16 = 0
        for length in 1...longest {
            guard let decoded = decodeToEnd(bytes, at: end - length, cause: cause) else {
                continue
            }
            candidates |= 1 << UInt16(length)
            if decoded.isRepeated { repeated |= 1 << UInt16(length) }
        }
        if startsAtInstruction, candidates != 0 {
            var offset = 0
            while offset < end {
                let left = end - offset
                if left <= longest, candidates & 1 << UInt16(left) != 0 { return left }
                guard let decoded = decodeQuickly(bytes, at: offset) else { break }
                offset += decoded.length
            }
        }
        if candidates.nonzeroBitCount < 2 {
            return candidates == 0 ? nil : candidates.trailingZeroBitCount
        }
        return mostReached(of: candidates, repeated: repeated, in: bytes)
    }

    /// The length of the instruction that ends where the bytes end; see the other form.
    public func lengthOfInstruction(
        endingIn bytes: [UInt8], cause: CausingInstruction, startsAtInstruction: Bool = false
    ) -> Int? {
        lengthOfInstruction(
            endingIn: bytes.span, cause: cause, startsAtInstruction: startsAtInstruction)
    }

    /// How long an instruction of that sort can be, given the bytes before RIP: those of port
    /// instructions and HLT are an opcode with prefixes before it, and at most one byte after.
    private func longestCandidate(
        endingIn bytes: Span<UInt8>, cause: CausingInstruction
    ) -> Int {
        let longest = min(Self.maximumLength, bytes.count)
        switch cause {
        case .memoryWrite, .any: return longest
        case .halt, .portAccess:
            var length = 0
            // The last byte, and the one before if the last may be an immediate, are opcodes.
            for shortest in 1...2 where shortest <= longest {
                guard isPortOpcodeOrHalt(bytes[bytes.count - shortest], hasImmediate: shortest == 2)
                else { continue }
                length = max(length, shortest)
                while length < longest, isPrefix(bytes[bytes.count - length - 1]) { length += 1 }
            }
            return length
        }
    }

    /// E4–E7 take an immediate; EC–EF, 6C–6F and F4 none (Intel SDM vol. 2, appendix A).
    private func isPortOpcodeOrHalt(_ byte: UInt8, hasImmediate: Bool) -> Bool {
        hasImmediate
            ? byte & 0xFC == 0xE4 : byte & 0xFC == 0xEC || byte & 0xFC == 0x6C || byte == 0xF4
    }

    /// Legacy prefixes, and REX where there is one (Intel SDM vol. 2, 2.1.1 and 2.2.1).
    private func isPrefix(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x26, 0x2E, 0x36, 0x3E, 0x64...0x67, 0xF0, 0xF2, 0xF3: true
        case 0x40...0x4F: width == .long64
        default: false
        }
    }

    /// The instruction from `offset` to the end of the bytes, if there is exactly one and it
    /// does what the exit says.
    private func decodeToEnd(
        _ bytes: Span<UInt8>, at offset: Int, cause: CausingInstruction
    ) -> Decoded? {
        guard let decoded = decodeQuickly(bytes, at: offset),
            decoded.length == bytes.count - offset
        else { return nil }
        switch cause {
        case .any: return decoded
        case .halt: return decoded.kind == .hlt ? decoded : nil
        case .memoryWrite(let size):
            var text: String?
            let full = decodeFully(bytes, at: offset, address: 0, text: &text)
            guard let full, full.writesMemory,
                full.writtenBytes >= size || full.isRepeated
            else { return nil }
            return full
        case .portAccess(let direction, let size, let port, let dx, let isString):
            guard let access = decoded.portAccess, access.direction == direction,
                access.sizeInBytes == size, access.port.map(UInt16.init) ?? dx == port,
                isString == nil || isString == access.isString
            else { return nil }
            return decoded
        }
    }

    private func mostReached(of candidates: UInt16, repeated: UInt16, in bytes: Span<UInt8>) -> Int
    {
        let end = bytes.count
        let window = min(end, Self.usefulHistory)
        // Indexed by bytes left before the end: which candidate decoding from there arrives at.
        var reached = InlineArray<65, UInt8>(repeating: 0)
        var votes = InlineArray<16, Int>(repeating: 0)
        for left in 1...window {
            if left <= Self.maximumLength, candidates & 1 << UInt16(left) != 0 {
                reached[left] = UInt8(left)
                continue
            }
            guard let decoded = decodeQuickly(bytes, at: end - left), decoded.length < left
            else { continue }
            let candidate = reached[left - decoded.length]
            reached[left] = candidate
            if candidate != 0 { votes[Int(candidate)] += 1 }
        }
        var best = 0
        for length in 1...Self.maximumLength where candidates & 1 << UInt16(length) != 0 {
            let isRepeated = repeated & 1 << UInt16(length) != 0
            if best == 0 || votes[length] > votes[best]
                || (votes[length] == votes[best] && isRepeated
                    && repeated & 1 << UInt16(best) == 0)
            {
                best = length
            }
        }
        return best
    }
}
