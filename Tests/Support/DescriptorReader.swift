import Glibc

/// Reads what comes from a pipe or a terminal, waiting for what is expected.
public final class DescriptorReader {
    /// All that came so far.
    public private(set) var bytes: [UInt8] = []
    /// Whether the other side has closed.
    public private(set) var isAtEnd: Bool
    private let descriptor: Int32

    /// Reads a descriptor, and closes it in the end; -1: there is nothing to read.
    public init(owning descriptor: Int32) {
        self.descriptor = descriptor
        isAtEnd = descriptor < 0
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// All that came so far, as text.
    public var text: String { String(decoding: bytes, as: UTF8.self) }

    /// Reads what is there now.
    private func read() {
        var chunk = [UInt8](repeating: 0, count: 65_536)
        // SAFETY: read fills at most the chunk's count.
        let count = unsafe Glibc.read(descriptor, &chunk, chunk.count)
        if count < 0, errno == EINTR || errno == EAGAIN { return }
        // A terminal whose other side is closed says EIO.
        if count <= 0 { isAtEnd = true } else { bytes.append(contentsOf: chunk[..<count]) }
    }

    /// Reads until a condition holds or the other side closes.
    ///
    /// - Throws: where nothing at all comes for a minute, which is a test that hangs.
    public func read(until condition: (DescriptorReader) -> Bool) throws(SupportError) {
        while !condition(self), !isAtEnd {
            var request = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            // SAFETY: one request on this frame.
            let result = unsafe poll(&request, 1, 60_000)
            if result < 0, errno == EINTR { continue }
            guard result > 0 else {
                throw SupportError("nothing came for a minute after: \(text.suffix(200))")
            }
            read()
        }
    }

    /// Reads until a text has come.
    ///
    /// - Throws: where the other side closes before that.
    public func read(untilText wanted: String) throws(SupportError) {
        let pattern = Array(wanted.utf8)
        try read { $0.contains(pattern) }
        guard contains(pattern) else {
            throw SupportError("\(wanted.debugDescription) did not come: \(text.suffix(400))")
        }
    }

    private func contains(_ pattern: [UInt8]) -> Bool {
        guard bytes.count >= pattern.count else { return false }
        for start in 0...(bytes.count - pattern.count)
        where bytes[start] == pattern[0] && bytes[start..<start + pattern.count] == pattern[...] {
            return true
        }
        return false
    }

    /// Reads all of them to their ends, whichever comes first.
    ///
    /// - Throws: where nothing at all comes for two minutes, which is a program that hangs.
    static func drain(_ readers: [DescriptorReader]) throws(SupportError) {
        while true {
            let open = readers.filter { !$0.isAtEnd }
            guard !open.isEmpty else { return }
            var requests = open.map {
                pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0)
            }
            // SAFETY: the array holds as many requests as are said.
            let result = unsafe poll(&requests, nfds_t(requests.count), 120_000)
            if result < 0, errno == EINTR { continue }
            guard result > 0 else {
                throw SupportError("it hangs, after: \(readers.map { $0.text.suffix(200) })")
            }
            for (reader, request) in zip(open, requests) where request.revents != 0 {
                reader.read()
            }
        }
    }
}
