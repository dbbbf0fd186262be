/// Where a debugger is to come from: the argument of `--gdb`.
public enum Endpoint: Equatable, Sendable {
    /// A TCP port; host nil: the loopback address. Port 0: any that is free.
    case tcp(host: String?, port: UInt16)
    /// A Unix socket at this path.
    case unix(path: String)
    /// Standard input and output, for `target remote | vmtape ...`.
    case standardStreams

    /// Reads `[HOST:]PORT`, `unix:PATH` or `stdio`. An IPv6 address is in brackets: `[::1]:1234`.
    ///
    /// - Throws: ``TransportError`` that says what is wrong with it.
    public init(_ text: String) throws(TransportError) {
        if text == "stdio" {
            self = .standardStreams
            return
        }
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst(5))
            guard !path.isEmpty, path.utf8.count <= Self.longestPath, !path.utf8.contains(0) else {
                throw .badEndpoint(
                    text, "a socket's path has 1 to \(Self.longestPath) bytes and no NUL")
            }
            self = .unix(path: path)
            return
        }
        self = try Self.tcp(text)
    }

    /// One less than `sun_path` holds (unix(7)).
    static let longestPath = 107

    private static func tcp(_ text: String) throws(TransportError) -> Endpoint {
        let colon = text.lastIndex(of: ":")
        let portText = colon.map { text[text.index(after: $0)...] } ?? text[...]
        guard !portText.isEmpty, portText.utf8.allSatisfy({ (48...57).contains($0) }),
            let port = UInt16(portText)
        else {
            throw .badEndpoint(
                text, "write [HOST:]PORT with a port of 0 to 65535, unix:PATH, stdio")
        }
        var host = colon.map { text[..<$0] } ?? ""
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            throw .badEndpoint(text, "an IPv6 address goes in brackets: [::1]:1234")
        }
        guard host.utf8.count <= 255, !host.utf8.contains(0) else {
            throw .badEndpoint(text, "a host name has at most 255 bytes and no NUL")
        }
        return .tcp(host: host.isEmpty ? nil : String(host), port: port)
    }
}

/// Why there is no server.
public enum TransportError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The text is no endpoint; what it should be.
    case badEndpoint(String, String)
    /// Nobody can connect there; what was tried, and the system's text.
    case cannotListen(String, String)
    /// Waiting for a debugger failed.
    case cannotAccept(String)
    /// The system gave no descriptor: what for, and its text.
    case noResources(String, String)
    /// The system gave no thread: the line that says so.
    case noThread(String)

    /// One line: what is wrong, where, what to do.
    public var description: String {
        switch self {
        case .badEndpoint(let text, let expected): "\(text): no place for a debugger: \(expected)"
        case .cannotListen(let place, let reason): "\(place): cannot be listened at: \(reason)"
        case .cannotAccept(let reason): "waiting for a debugger failed: \(reason)"
        case .noResources(let what, let reason): "\(what): \(reason)"
        case .noThread(let message): message
        }
    }
}
