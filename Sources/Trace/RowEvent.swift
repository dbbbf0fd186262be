extension RowReader {
    /// The event that a row by itself says, for reports; ranges are places in the row. Registers
    /// that the row does not change are not known and read as zero.
    ///
    /// - Returns: nil where the bytes are no row.
    public static func event(ofRow row: [UInt8]) -> Event? {
        var reader = RowReader(vCPUCount: Limits.vCPUs)
        // SAFETY: the buffer is the array's own, alive through the call.
        return unsafe row.withUnsafeBytes { row -> Event? in
            do throws(Malformed) { return try unsafe reader.read(row, offset: 0) } catch {
                return nil
            }
        }
    }
}
