/// Understands the packets that begin with `q` and `Q`.
enum QueryParser {
    /// What a query asks for; see ``CommandParser/parse(_:)``.
    static func parse(_ packet: [UInt8]) throws(CommandError) -> Command {
        var scanner = PacketScanner(packet[...])
        let name = String(decoding: scanner.upTo(separator(of: packet)), as: UTF8.self)
        switch name {
        case "qSupported": return .supported(features: features(scanner.rest.dropFirst()))
        case "QStartNoAckMode": return .startNoAcknowledgement
        case "qC": return .currentThread
        case "qfThreadInfo": return .firstThreads
        case "qsThreadInfo": return .moreThreads
        case "qThreadExtraInfo":
            try scanner.expect(",")
            return .threadInformation(try scanner.thread())
        case "qAttached": return .isAttached
        case "qSymbol": return .symbolLookup
        case "qXfer":
            try scanner.expect(":")
            return try transfer(&scanner)
        case "qRcmd":
            try scanner.expect(",")
            guard let text = HexText.bytes(scanner.rest) else {
                throw CommandError("malformed packet: the command is not hexadecimal")
            }
            return .monitor(text)
        case "qqemu.PhyMemMode": return .memorySpace
        case "Qqemu.PhyMemMode":
            try scanner.expect(":")
            let mode = try scanner.number("mode", atMost: 1)
            try scanner.expectEnd()
            return .setMemorySpace(mode == 1 ? .physical : .virtual)
        default: return .unknown
        }
    }

    /// What ends the name of a query: the first of `:`, `,` and `;`.
    private static func separator(of packet: [UInt8]) -> Unicode.Scalar {
        for byte in packet where byte == 0x3A || byte == 0x2C || byte == 0x3B {
            return Unicode.Scalar(byte)
        }
        return ":"
    }

    /// `NAME+;NAME-;NAME=VALUE`, as they stand.
    private static func features(_ text: ArraySlice<UInt8>) -> [String] {
        text.split(separator: 0x3B, maxSplits: 256).map { String(decoding: $0, as: UTF8.self) }
    }

    /// `OBJECT:read:ANNEX:OFFSET,LENGTH`.
    private static func transfer(_ scanner: inout PacketScanner) throws(CommandError) -> Command {
        let object = String(decoding: scanner.upTo(":"), as: UTF8.self)
        guard scanner.take(":read:") else { return .unknown }
        let annex = String(decoding: scanner.upTo(":"), as: UTF8.self)
        let kind: Command.Transfer
        switch object {
        case "features": kind = .features(annex: annex)
        case "memory-map": kind = .memoryMap
        // The annex is a process: there is one.
        case "exec-file": kind = .executableName
        default: return .unknown
        }
        try scanner.expect(":")
        let offset = try scanner.number("offset")
        try scanner.expect(",")
        // More than fits is asked for as a matter of course; less is given.
        let count = min(try scanner.number("length"), UInt64(Limits.packet))
        try scanner.expectEnd()
        return .transfer(kind, offset: offset, count: Int(count))
    }
}
