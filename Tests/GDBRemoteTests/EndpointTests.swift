import GDBRemote
import Testing

@Suite struct EndpointTests {
    @Test(arguments: [
        ("1234", Endpoint.tcp(host: nil, port: 1234)), (":0", .tcp(host: nil, port: 0)),
        ("localhost:65535", .tcp(host: "localhost", port: 65535)),
        ("0.0.0.0:1", .tcp(host: "0.0.0.0", port: 1)),
        ("[::1]:1234", .tcp(host: "::1", port: 1234)),
        ("unix:/tmp/x", .unix(path: "/tmp/x")), ("unix:relative:1", .unix(path: "relative:1")),
        ("stdio", .standardStreams),
    ])
    func readsPlaces(text: String, endpoint: Endpoint) throws {
        #expect(try Endpoint(text) == endpoint)
    }

    @Test(arguments: [
        "", ":", "host", "host:", "host:x", "65536", "-1", "+1", "1.5", "::1:1234", "unix:",
        "unix:\(String(repeating: "x", count: 108))", "a\0b:1", "[::1]", "host:1:2:3",
    ])
    func refusesOthers(text: String) {
        #expect {
            try Endpoint(text)
        } throws: { error in
            "\(error)".hasPrefix("\(text): no place for a debugger: ") && !"\(error)".contains("\n")
        }
    }
}
