/// Aligns two short sequences as a text diff does: the fewest insertions and deletions that turn
/// one into the other (E. W. Myers, "An O(ND) Difference Algorithm and Its Variations", 1986).
struct Alignment {
    /// Pairs of places that match, ascending on both sides.
    private(set) var pairs: [(a: Int, b: Int)] = []
    /// The sequences differ in more places than were tried: the pairs reach as far as the best
    /// attempt did.
    private(set) var isCutShort: Bool
    /// How far the pairs and what lies between them account for the sequences.
    private(set) var reach: (a: Int, b: Int)

    /// Aligns; with more than `limit` insertions and deletions it stops where it got furthest.
    init(_ a: [Int32], _ b: [Int32], limit: Int) {
        // Row d holds, for each diagonal k (place in a − place in b) that d edits lead to, the
        // furthest place in a; it is at k + d. Places past an end are kept: nothing leads back
        // from there.
        var rows: [[Int32]] = []
        var best: (sum: Int, edits: Int, diagonal: Int) = (-1, 0, 0)
        for edits in 0...min(limit, a.count + b.count) {
            var row = [Int32](repeating: 0, count: 2 * edits + 1)
            for diagonal in stride(from: -edits, through: edits, by: 2) {
                var x = edits == 0 ? 0 : Self.step(rows[edits - 1], edits, diagonal).x
                while x < a.count, x - diagonal < b.count, a[x] == b[x - diagonal] { x += 1 }
                row[diagonal + edits] = Int32(truncatingIfNeeded: x)
                let y = x - diagonal
                if x <= a.count, y <= b.count, x + y > best.sum { best = (x + y, edits, diagonal) }
            }
            rows.append(row)
            if best.sum == a.count + b.count { break }
        }
        let x = Int(rows[best.edits][best.diagonal + best.edits])
        reach = (x, x - best.diagonal)
        isCutShort = best.sum < a.count + b.count
        walkBack(rows, best.edits, best.diagonal)
    }

    /// Where an edit leads on a diagonal: past one place of `a` (right) or of `b`.
    private static func step(
        _ before: [Int32], _ edits: Int, _ diagonal: Int
    ) -> (x: Int, isRight: Bool) {
        // The rows before are one shorter on either side.
        let down = diagonal == edits ? -1 : Int(before[diagonal + edits])
        let right = diagonal == -edits ? -1 : Int(before[diagonal + edits - 2])
        return right < down || diagonal == -edits ? (down, false) : (right + 1, true)
    }

    /// Follows the edits back to the beginning and collects what matched.
    private mutating func walkBack(_ rows: [[Int32]], _ lastEdits: Int, _ lastDiagonal: Int) {
        var diagonal = lastDiagonal
        var x = Int(rows[lastEdits][lastDiagonal + lastEdits])
        for edits in stride(from: lastEdits, through: 0, by: -1) {
            let start = edits == 0 ? (0, false) : Self.step(rows[edits - 1], edits, diagonal)
            while x > start.0 {
                x -= 1
                pairs.append((x, x - diagonal))
            }
            guard edits > 0 else { break }
            x = start.1 ? start.0 - 1 : start.0
            diagonal += start.1 ? -1 : 1
        }
        pairs.reverse()
    }
}
