// Objects and files that a debugger reads over the connection.
extension Session {
    // MARK: qXfer

    mutating func transfer<Target: DebugTarget & ~Copyable>(
        _ object: Command.Transfer, offset: UInt64, count: Int, _ target: inout Target
    ) {
        switch object {
        case .features(annex: "target.xml"):
            sendPart(Array(TargetDescription.xml(layout).utf8), offset: offset, count: count)
        case .features(let annex):
            fail(DebugError("there is no target description \(annex.prefix(80))"))
        case .memoryMap:
            let regions = target.memoryMap
            guard !regions.isEmpty else { return send("") }
            let map = TargetDescription.memoryMap(regions)
            sendPart(Array(map.utf8), offset: offset, count: count)
        case .executableName:
            guard let executable = target.executable else { return send("") }
            sendPart(Self.path(of: executable), offset: offset, count: count)
        }
    }

    /// `m` and data, or `l` and the last of it (GDB manual, "General Query Packets", `qXfer`).
    private mutating func sendPart(_ whole: [UInt8], offset: UInt64, count: Int) {
        guard offset <= UInt64(whole.count) else {
            return fail(DebugError("offset \(offset) is beyond the end, \(whole.count)"))
        }
        let rest = whole[Int(offset)...]
        // Every byte may need an escape.
        let part = rest.prefix(min(count, Limits.memoryTransfer - 1))
        let letter = part.count == rest.count ? UInt8(ascii: "l") : UInt8(ascii: "m")
        send([letter] + part)
    }

    /// gdb takes the connection for the place of the file only where its path is absolute.
    private static func path(of executable: DebugExecutable) -> [UInt8] {
        let name = Array(executable.name.utf8.prefix(1000))
        return name.first == UInt8(ascii: "/") ? name : [UInt8(ascii: "/")] + name
    }

    // MARK: vFile

    /// The error numbers of the File-I/O protocol (GDB manual, "Errno Values").
    private enum FileError: UInt64 {
        case noEntry = 2
        case badDescriptor = 9
        case invalid = 22
        case readOnly = 30
    }

    /// There is one file, and one descriptor for it: nothing is kept open.
    private static let descriptor: UInt64 = 3

    /// `F RESULT[,ERRNO][;DATA]`.
    mutating func answerFile(_ request: Command.FileRequest, _ executable: DebugExecutable?) {
        switch request {
        case .setFileSystem: send("F0")
        case .open(let name, let flags):
            guard let executable, name == Self.path(of: executable) else {
                return failFile(.noEntry)
            }
            // The two low bits: 0 is reading only.
            guard flags & 3 == 0 else { return failFile(.readOnly) }
            send("F" + String(Self.descriptor, radix: 16))
        case .read(let descriptor, let count, let offset):
            guard let executable, descriptor == Self.descriptor else {
                return failFile(.badDescriptor)
            }
            let start = Int(min(offset, UInt64(executable.bytes.count)))
            // Room for what stands before the data; every byte may need an escape.
            let part = executable.bytes[start...].prefix(min(count, Limits.memoryTransfer - 16))
            send(Array("F\(String(part.count, radix: 16));".utf8) + part)
        case .status(let descriptor):
            guard let executable, descriptor == Self.descriptor else {
                return failFile(.badDescriptor)
            }
            let status = Self.status(size: UInt64(executable.bytes.count))
            send(Array("F\(String(status.count, radix: 16));".utf8) + status)
        case .close(let descriptor):
            if descriptor == Self.descriptor { send("F0") } else { failFile(.badDescriptor) }
        case .other: send("")
        }
    }

    private mutating func failFile(_ error: FileError) {
        send("F-1," + String(error.rawValue, radix: 16))
    }

    /// `struct stat` of the File-I/O protocol (GDB manual, "struct stat"): big-endian; seven words
    /// of 32 bits, three of 64, three times of 32.
    private static func status(size: UInt64) -> [UInt8] {
        func bytes(_ value: UInt64, _ count: Int) -> [UInt8] {
            (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64((count - 1 - $0) * 8)) }
        }
        let regularFileReadable: UInt64 = 0o100444
        let words = [0, 0, regularFileReadable, 1, 0, 0, 0].flatMap { bytes($0, 4) }
        let sizes = [size, 4096, (size &+ 511) / 512].flatMap { bytes($0, 8) }
        return words + sizes + [UInt8](repeating: 0, count: 12)
    }
}
