extension TraceReader {
    /// The running digests over everything before an exit; where there is no such exit, over all.
    ///
    /// Reads one block header and one block. Errors: one of them is damaged.
    public func digests(before exit: UInt64) throws(TraceError) -> RunningDigests {
        guard eventBlockCount > 0 else { return RunningDigests() }
        let last = eventBlockCount - 1
        let index = block(containing: exit) ?? last
        var before = RunningDigests()
        if index > 0 {
            guard let known = try summary(ofBlock: index - 1).digests else {
                throw source.damaged(
                    offset(ofBlock: index - 1), "the digests before exit \(exit) are lost")
            }
            before = known
        }
        var loader = makeLoader()
        var decoder = ColumnDecoder()
        var rows = RowBuffer()
        try load(index, &loader, &decoder, into: &rows)
        var roller = DigestRoller(before)
        var number = exits(ofBlock: index).lowerBound
        do throws(Malformed) {
            for row in rows.ends.indices {
                let bytes = unsafe rows.row(row)
                let view = try unsafe RowView(bytes)
                if view.kind == .exit {
                    if number == exit { break }
                    number += 1
                }
                unsafe roller.add(bytes, view)
            }
        } catch { throw source.damaged(offset(ofBlock: index), error.what) }
        return roller.digests
    }
}
