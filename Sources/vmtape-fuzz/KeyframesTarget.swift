internal import Machine
internal import Trace

/// The reader of keyframe files over a whole file: as it is, and again with its checksums made right.
enum KeyframesTarget {
    /// What the files go with.
    static let key: KeyframeKey = {
        guard
            let trace = try? TraceReader(bytes: Seeds.complete(timing: false), tail: nil),
            let key = try? KeyframeKey(trace, conditions: [Property("host.kernel", "6.1")])
        else { preconditionFailure("a trace that was just written is read") }
        return key
    }()

    static func run(_ input: [UInt8]) {
        read(input)
        var sealed = input
        TraceTarget.seal(&sealed)
        if sealed != input { read(sealed) }
    }

    /// Reads all there is.
    private static func read(_ bytes: [UInt8]) {
        guard let file = try? KeyframeFile(bytes: bytes, key: key) else { return }
        require(file.key == key, "a file is of the key that was asked for")
        for (record, next) in zip(file.records, file.records.dropFirst()) {
            require(record.position < next.position, "keyframes are in order")
        }
        for record in file.records {
            for page in record.pages {
                require(page.content.map { $0 < file.pageCount } ?? true, "pages are there")
            }
        }
        // SAFETY: the room is a page's, during the call.
        unsafe withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 8) { room in
            guard let base = room.baseAddress else { return }
            // Beyond the last is none.
            let last = min(file.pageCount, 64)
            for number in 0..<last { _ = try? unsafe file.copyPage(number, to: base) }
            let beyond: Void? = try? unsafe file.copyPage(file.pageCount, to: base)
            require(beyond == nil, "there is no page behind the last")
        }
    }
}
