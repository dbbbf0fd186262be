internal import Glibc

/// Two descriptors that a debugger is at the other end of, and what of its bytes is not yet used.
struct Connection: ~Copyable {
    /// Reading end.
    let input: Int32
    /// Writing end; the same for a socket.
    private let output: Int32
    /// The socket, where it is one's own to close.
    private let socket: Descriptor?
    private let stopper: Signal
    /// What was read and not taken, from ``position`` on.
    private var bytes: [UInt8] = []
    private var position = 0
    /// The other end has said something.
    private(set) var hasSpoken = false

    /// Why nothing more comes or goes.
    enum Failure: Error, Equatable {
        /// The debugger has closed its end.
        case closed
        /// Somebody wants the server to end.
        case stopped
        case system(Int32)
        /// There is nobody to watch it.
        case unwatched(String)
    }

    /// A debugger on a socket.
    init(_ socket: consuming Descriptor, stopper: Signal) {
        input = socket.number
        output = socket.number
        self.socket = consume socket
        self.stopper = stopper
    }

    /// A debugger on two descriptors that stay open after.
    init(input: Int32, output: Int32, stopper: Signal) {
        self.input = input
        self.output = output
        socket = nil
        self.stopper = stopper
    }

    /// What was read and not taken.
    var unread: ArraySlice<UInt8> { bytes[position...] }

    /// The next byte. Waits for it, sending other debuggers away meanwhile.
    mutating func next(_ listener: Listener?) throws(Failure) -> UInt8 {
        while position == bytes.count {
            let ready = try Poll.wait(reading: [input, listener?.number ?? -1, stopper.number])
            if ready[2] { throw .stopped }
            // One that has just gone must not keep the next one out.
            if ready[0] { try fill() } else if ready[1] { listener?.refuseNext() }
        }
        defer { position += 1 }
        return bytes[position]
    }

    private mutating func fill() throws(Failure) {
        bytes.removeAll(keepingCapacity: true)
        position = 0
        bytes = try Self.read(input, atMost: Self.chunk)
        hasSpoken = true
    }

    /// Adds what somebody else has read from the same descriptor.
    mutating func append(_ more: [UInt8]) {
        bytes = Array(bytes[position...]) + more
        position = 0
    }

    static let chunk = 1 << 16

    /// Reads what is there; poll has said that something is.
    static func read(_ descriptor: Int32, atMost count: Int) throws(Failure) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        // SAFETY: the array has as many bytes as are asked for.
        let result = unsafe Glibc.read(descriptor, &bytes, count)
        if result > 0 { return Array(bytes[..<result]) }
        if result == 0 { throw .closed }
        switch errno {
        case EINTR, EAGAIN: return []
        case ECONNRESET, EPIPE: throw .closed
        default: throw .system(errno)
        }
    }

    /// Sends all of it. Waits for a debugger that does not read, unless the server is to end.
    func send(_ bytes: [UInt8]) throws(Failure) {
        var done = 0
        while done < bytes.count {
            let ready = try Poll.wait(reading: [stopper.number], writing: output)
            if ready[0] { throw .stopped }
            done += try write(bytes, from: done)
        }
    }

    /// Writes some; never waits after poll has said that there is room.
    private func write(_ bytes: [UInt8], from start: Int) throws(Failure) -> Int {
        let flags = Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT)
        // SAFETY: the rest of the array, alive through the call.
        let result = unsafe bytes[start...].withUnsafeBytes { rest in
            let sent = unsafe Glibc.send(output, rest.baseAddress, rest.count, flags)
            guard sent < 0, errno == ENOTSOCK else { return sent }
            // A pipe that has room has room for this many (pipe(7)).
            return unsafe Glibc.write(output, rest.baseAddress, min(rest.count, Int(PIPE_BUF)))
        }
        if result >= 0 { return result }
        switch errno {
        case EINTR, EAGAIN: return 0
        case ECONNRESET, EPIPE: throw .closed
        default: throw .system(errno)
        }
    }
}
