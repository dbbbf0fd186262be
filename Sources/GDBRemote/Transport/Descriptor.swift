internal import Glibc

/// A descriptor that is closed when it goes.
struct Descriptor: ~Copyable {
    let number: Int32

    /// Takes a descriptor over; it must be open and nobody else's.
    init(owning number: Int32) { self.number = number }

    /// Gives it up: it is the caller's to close.
    consuming func release() -> Int32 {
        let number = number
        discard self
        return number
    }

    deinit { close(number) }
}

/// The system's text for an errno.
func systemText(_ number: Int32) -> String {
    // SAFETY: strerror's string is copied at once; it is a constant for the numbers there are.
    unsafe strerror(number).map { unsafe String(cString: $0) } ?? "error \(number)"
}

/// A descriptor that is readable once somebody has asked for it.
///
/// A pair of sockets, since only those are born with close-on-exec in what Glibc shows of itself.
final class Signal: Sendable {
    private let reading: Int32
    private let writing: Int32

    /// - Throws: ``TransportError/noResources(_:_:)``
    init() throws(TransportError) {
        var ends: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        // SAFETY: socketpair fills two descriptors, and the array has two.
        guard unsafe socketpair(AF_UNIX, type, 0, &ends) == 0 else {
            throw .noResources("a pair of sockets", systemText(errno))
        }
        reading = ends[0]
        writing = ends[1]
    }

    deinit {
        close(reading)
        close(writing)
    }

    /// What to poll for POLLIN.
    var number: Int32 { reading }

    /// Makes it readable, for good.
    func set() { shutdown(writing, Int32(SHUT_WR)) }
}

/// poll(2) on a few descriptors; those below zero are passed over.
enum Poll {
    /// Waits until one of them has something, has room, or hangs up. Goes on after a signal.
    ///
    /// - Returns: for each of `reading`, and in the end for `writing`, whether that is so.
    static func wait(
        reading: [Int32], writing: Int32 = -1
    ) throws(Connection.Failure) -> [Bool] {
        var requests = reading.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        requests.append(pollfd(fd: writing, events: Int16(POLLOUT), revents: 0))
        while true {
            // SAFETY: the array holds as many requests as are said.
            let count = unsafe poll(&requests, nfds_t(requests.count), -1)
            if count >= 0 { return requests.map { $0.revents != 0 } }
            if errno != EINTR { throw .system(errno) }
        }
    }
}
