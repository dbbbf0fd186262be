/// A set of interrupt vectors: what IRR, ISR and TMR are (Intel SDM vol. 3, 12.8.4).
struct VectorSet: Equatable, Sendable {
    private var words: InlineArray<8, UInt32> = InlineArray(repeating: 0)

    static func == (a: Self, b: Self) -> Bool {
        for index in 0..<8 where a.words[index] != b.words[index] { return false }
        return true
    }

    /// Whether a vector is in the set.
    subscript(vector: UInt8) -> Bool {
        get { words[Int(vector >> 5)] >> UInt32(vector & 31) & 1 != 0 }
        set {
            let bit = UInt32(1) << UInt32(vector & 31)
            if newValue {
                words[Int(vector >> 5)] |= bit
            } else {
                words[Int(vector >> 5)] &= ~bit
            }
        }
    }

    /// The vector with the highest priority; nil where the set is empty.
    var highest: UInt8? {
        var index = 8
        while index > 0 {
            index -= 1
            let word = words[index]
            if word != 0 { return UInt8(index * 32 + 31 - word.leadingZeroBitCount) }
        }
        return nil
    }

    /// 32 vectors as a register shows them, from 32 × `index` on; `index` is 0–7.
    func word(_ index: UInt16) -> UInt32 { words[Int(index & 7)] }
}
