/// Where an instruction of a wanted kind stands in a stretch of code.
public struct Occurrence: Equatable, Sendable {
    /// Offset of its first byte.
    public var offset: Int
    /// Its length in bytes, prefixes included.
    public var length: Int
    /// What it is.
    public var kind: Instruction.Kind
}

extension Disassembler {
    /// The instructions of some kinds in a stretch of code, in order.
    ///
    /// The code is decoded one instruction after the other from its first byte, which must start
    /// one; a byte that starts none is skipped. Data between functions can put the decoder out
    /// of step for a few instructions: give each function as a stretch of its own where its
    /// bounds are known.
    public func occurrences(
        in code: Span<UInt8>, where isWanted: (Instruction.Kind) -> Bool
    ) -> [Occurrence] {
        var found: [Occurrence] = []
        var offset = 0
        while offset < code.count {
            guard let decoded = decodeQuickly(code, at: offset) else {
                offset += 1
                continue
            }
            let kind = decoded.kind
            if isWanted(kind) {
                found.append(Occurrence(offset: offset, length: decoded.length, kind: kind))
            }
            offset += decoded.length
        }
        return found
    }

    /// The instructions of some kinds in a stretch of code; see the other form.
    public func occurrences(of kinds: [Instruction.Kind], in code: [UInt8]) -> [Occurrence] {
        occurrences(in: code.span) { kinds.contains($0) }
    }
}
