internal import Glibc
internal import Synchronization

/// A socket at which debuggers arrive.
final class Listener: Sendable {
    private let socket: Descriptor
    /// What goes after `target remote`.
    let address: String
    private let path: String?
    private let isTCP: Bool

    /// Sockets of debuggers that were sent away, the oldest first.
    private let refused = Mutex<[Int32]>([])
    private static let refusedLimit = 4

    /// The descriptor, to poll.
    var number: Int32 { socket.number }

    private init(_ socket: consuming Descriptor, address: String, path: String?) {
        self.socket = consume socket
        self.address = address
        self.path = path
        isTCP = path == nil
    }

    // MARK: Unix sockets

    /// Listens at a path. What a server left there that is gone is replaced; nothing else is.
    static func unix(path: String) throws(TransportError) -> Listener {
        let place = "unix:\(path)"
        try removeStale(path, place)
        let socket = try makeSocket(AF_UNIX, place)
        // The guest's memory is for the owner's eyes; the mode is that of the file bind makes.
        guard fchmod(socket.number, 0o600) == 0 else {
            throw .cannotListen(place, systemText(errno))
        }
        let number = socket.number
        // SAFETY: the address lives through the call.
        guard unsafe withAddress(path, { unsafe bind(number, $0, $1) }) == 0,
            listen(number, 1) == 0
        else { throw .cannotListen(place, systemText(errno)) }
        return Listener(socket, address: path, path: path)
    }

    private static func removeStale(_ path: String, _ place: String) throws(TransportError) {
        var status = stat()
        // SAFETY: Swift passes a NUL-terminated string and a local.
        guard unsafe lstat(path, &status) == 0 else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            throw .cannotListen(place, "there is a file of that name, and it is no socket")
        }
        let probe = try makeSocket(AF_UNIX, place)
        let number = probe.number
        // SAFETY: the address lives through the call.
        guard unsafe withAddress(path, { unsafe connect(number, $0, $1) }) != 0 else {
            throw .cannotListen(place, "somebody listens there already")
        }
        guard errno == ECONNREFUSED else { throw .cannotListen(place, systemText(errno)) }
        // SAFETY: Swift passes a NUL-terminated string.
        _ = unsafe unlink(path)
    }

    /// Calls `body` with the address of a path, which has at most ``Endpoint/longestPath`` bytes.
    private static func withAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        // SAFETY: sun_path is longer than the path, and zero where that ends; the pointer covers
        // the address during the call.
        return unsafe withUnsafeMutableBytes(of: &address) { bytes in
            let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
            for (index, byte) in path.utf8.prefix(Endpoint.longestPath).enumerated() {
                unsafe bytes[offset + index] = byte
            }
            guard let start = bytes.baseAddress else { return -1 }
            return unsafe body(
                start.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count))
        }
    }

    // MARK: TCP

    /// Listens at a port of a host, numeric or by name.
    static func tcp(host: String?, port: UInt16) throws(TransportError) -> Listener {
        // `localhost` may be either; without a host it is the one that all debuggers try.
        let host = host ?? "127.0.0.1"
        let place = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        // SAFETY: all zero is what is left out.
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        unsafe hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        // SAFETY: Swift passes NUL-terminated strings and locals.
        let failure = unsafe getaddrinfo(host == "*" ? nil : host, String(port), &hints, &list)
        guard failure == 0 else {
            // SAFETY: a constant string, copied at once.
            let reason = unsafe gai_strerror(failure).map { unsafe String(cString: $0) }
            throw .cannotListen(place, reason ?? "unknown host")
        }
        // SAFETY: the list is getaddrinfo's, freed once.
        defer { if let list = unsafe list { unsafe freeaddrinfo(list) } }
        var lastError = TransportError.cannotListen(place, "the host has no address")
        // SAFETY: each entry is of the list that lives to the end of this function.
        var entry = unsafe list
        while let info = unsafe entry?.pointee {
            unsafe entry = info.ai_next
            do throws(TransportError) {
                let socket = try unsafe listening(at: info, place)
                let address = try name(of: socket.number, place)
                return Listener(socket, address: address, path: nil)
            } catch { lastError = error }
        }
        throw lastError
    }

    private static func listening(
        at info: addrinfo, _ place: String
    ) throws(TransportError) -> Descriptor {
        let socket = try makeSocket(unsafe info.ai_family, place)
        var one: Int32 = 1
        // SAFETY: a local and its size; the address is getaddrinfo's, as long as it says.
        unsafe setsockopt(socket.number, SOL_SOCKET, SO_REUSEADDR, &one, 4)
        guard unsafe bind(socket.number, info.ai_addr, info.ai_addrlen) == 0,
            listen(socket.number, 1) == 0
        else { throw .cannotListen(place, systemText(errno)) }
        return socket
    }

    /// `HOST:PORT` with the port that was chosen.
    private static func name(of socket: Int32, _ place: String) throws(TransportError) -> String {
        var address = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        var host = [CChar](repeating: 0, count: 256)
        var port = [CChar](repeating: 0, count: 32)
        // SAFETY: locals with their sizes; any socket address may be read as sockaddr.
        let status = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                guard unsafe getsockname(socket, address, &length) == 0 else { return errno }
                return unsafe getnameinfo(
                    address, length, &host, 256, &port, 32, NI_NUMERICHOST | NI_NUMERICSERV)
            }
        }
        guard status == 0 else { throw .cannotListen(place, "it has no name") }
        func text(_ characters: [CChar]) -> String {
            String(
                decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) },
                as: UTF8.self)
        }
        let name = text(host)
        return name.contains(":") ? "[\(name)]:\(text(port))" : "\(name):\(text(port))"
    }

    // MARK: Both

    private static func makeSocket(
        _ family: Int32, _ place: String
    ) throws(TransportError) -> Descriptor {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let number = Glibc.socket(family, type, 0)
        guard number >= 0 else { throw .cannotListen(place, systemText(errno)) }
        return Descriptor(owning: number)
    }

    /// The next debugger; nil: it went away before it was taken.
    func accept() throws(TransportError) -> Descriptor? {
        while true {
            let number = Glibc.accept(socket.number, nil, nil)
            if number >= 0 {
                _ = fcntl(number, F_SETFD, FD_CLOEXEC)
                if isTCP {
                    var one: Int32 = 1
                    // SAFETY: a local and its size.
                    unsafe setsockopt(number, Int32(IPPROTO_TCP), TCP_NODELAY, &one, 4)
                }
                return Descriptor(owning: number)
            }
            switch errno {
            case EINTR: continue
            case ECONNABORTED, EAGAIN: return nil
            default: throw .cannotAccept(systemText(errno))
            }
        }
    }

    /// Sends a debugger away that came while another one is served.
    ///
    /// It is told in answer to the first packet, whatever that says. The socket stays open for a
    /// while: a debugger that cannot write any more does not read either.
    func refuseNext() {
        guard let visitor = try? accept() else { return }
        let text = PacketFrame.framed(
            Array("E.".utf8) + PacketFrame.text("another debugger is attached to this machine"))
        let bytes = [UInt8(ascii: "+")] + text
        // SAFETY: the array's bytes, alive through the call. A socket just made takes so few.
        _ = unsafe send(
            visitor.number, bytes, bytes.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
        shutdown(visitor.number, Int32(SHUT_WR))
        let number = visitor.release()
        refused.withLock { refused in
            if refused.count == Self.refusedLimit { close(refused.removeFirst()) }
            refused.append(number)
        }
    }

    deinit {
        refused.withLock { for number in $0 { close(number) } }
        // SAFETY: Swift passes a NUL-terminated string; the file is the one bind made.
        if let path { _ = unsafe unlink(path) }
    }
}
