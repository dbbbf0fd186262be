import Glibc
import TestSupport

/// A debugger that says what a test wants, right or wrong.
final class Client {
    private let descriptor: Int32
    let answers: DescriptorReader

    /// Connects to what a server calls its address.
    init(_ address: String) throws(SupportError) {
        var descriptor: Int32 = -1
        if address.hasPrefix("/") {
            descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
            let socket = descriptor
            // SAFETY: the address lives through the call.
            let status = unsafe Self.withAddress(address) { unsafe connect(socket, $0, $1) }
            guard status == 0 else { throw SupportError("cannot connect to \(address)") }
        } else {
            descriptor = try Self.connectTCP(address)
        }
        self.descriptor = descriptor
        answers = DescriptorReader(owning: descriptor)
    }

    /// Calls `body` with the address of a path, which must be short.
    static func withAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        // SAFETY: no more than sun_path holds; the rest stays zero.
        return unsafe withUnsafeMutableBytes(of: &name) { bytes in
            for (index, byte) in path.utf8.prefix(107).enumerated() {
                unsafe bytes[2 + index] = byte
            }
            guard let start = bytes.baseAddress else { return -1 }
            return unsafe body(
                start.assumingMemoryBound(to: sockaddr.self), socklen_t(bytes.count))
        }
    }

    private static func connectTCP(_ address: String) throws(SupportError) -> Int32 {
        guard let colon = address.lastIndex(of: ":") else { throw SupportError("no port") }
        let host = address[..<colon].filter { $0 != "[" && $0 != "]" }
        // SAFETY: all zero is what is left out.
        var hints = unsafe addrinfo()
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let port = String(address[address.index(after: colon)...])
        // SAFETY: Swift passes NUL-terminated strings; the list is freed once, after its use.
        guard unsafe getaddrinfo(String(host), port, &hints, &list) == 0, let info = unsafe list
        else { throw SupportError("\(address) is no address") }
        defer { unsafe freeaddrinfo(info) }
        let descriptor = unsafe socket(
            info.pointee.ai_family, Int32(SOCK_STREAM.rawValue), 0)
        guard unsafe connect(descriptor, info.pointee.ai_addr, info.pointee.ai_addrlen) == 0 else {
            close(descriptor)
            throw SupportError("cannot connect to \(address)")
        }
        return descriptor
    }

    /// Sends text as it is; false where nobody takes it any more.
    @discardableResult
    func send(_ text: String) -> Bool { send(Array(text.utf8)) }

    @discardableResult
    func send(_ bytes: [UInt8]) -> Bool {
        // SAFETY: the array's bytes, alive through the call.
        unsafe Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
    }

    /// Sends as much of it as the connection takes without waiting.
    func sendWithoutWaiting(_ bytes: [UInt8]) -> Int {
        // SAFETY: the array's bytes, alive through the call.
        unsafe Glibc.send(
            descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
    }

    /// Sends a packet.
    func say(_ packet: String) { send(Talk.frame(Array(packet.utf8))) }

    /// Waits until a text has come.
    func expect(_ text: String) throws(SupportError) { try answers.read(untilText: text) }

    /// Waits until the server has closed.
    func expectEnd() throws(SupportError) { try answers.read { _ in false } }

    /// Ends the connection: in both directions, at once.
    func hangUp() { shutdown(descriptor, Int32(SHUT_RDWR)) }
}
