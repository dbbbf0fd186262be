/// A PS/2 keyboard: its commands, and the codes it sends in set 2.
///
/// Codes are queued as they are given, in set 2 as a keyboard sends it by default; a guest that
/// selects another set gets them as they are.
struct Keyboard: Sendable {
    private var queue = ByteFIFO()
    /// Whether it scans its keys.
    private(set) var isScanning = true
    /// The lights: scroll, num, caps.
    private(set) var lights: UInt8 = 0
    private var codeSet: UInt8 = 2
    private var typematic: UInt8 = 0x2B
    /// The command whose parameter comes next; 0: none.
    private var command: UInt8 = 0
    private var lastSent: UInt8 = 0

    /// Whether it has a byte to send.
    var isEmpty: Bool { queue.count == 0 }
    /// How many bytes there is room for.
    var room: Int { 16 - queue.count }

    /// The byte it sends next.
    mutating func next() -> UInt8? {
        guard let byte = queue.pop() else { return nil }
        lastSent = byte
        return byte
    }

    /// Queues a byte of a key's code. False where the keyboard does not scan or has no room.
    mutating func press(_ byte: UInt8) -> Bool {
        guard isScanning, queue.count < 16 else { return false }
        queue.push(byte)
        return true
    }

    private mutating func send(_ byte: UInt8) {
        if queue.count == 16 { _ = queue.pop() }
        queue.push(byte)
    }

    /// Takes a byte from the host: a command or its parameter.
    mutating func receive(_ byte: UInt8) {
        if command != 0 && byte < 0x80 {
            take(parameter: byte)
            return
        }
        command = 0
        switch byte {
        case 0xED, 0xF0, 0xF3:  // lights, code set, repeat rate: a parameter follows
            command = byte
            send(Self.acknowledge)
        case 0xEE: send(0xEE)  // echo
        case 0xF2:
            send(Self.acknowledge)
            send(0xAB)
            send(0x83)
        case 0xF4:
            queue.clear()
            isScanning = true
            send(Self.acknowledge)
        case 0xF5, 0xF6:
            queue.clear()
            setDefaults()
            isScanning = byte == 0xF6
            send(Self.acknowledge)
        case 0xF7...0xFA: send(Self.acknowledge)  // all keys of set 3
        case 0xFB...0xFD:  // one key of set 3: its code follows
            command = byte
            send(Self.acknowledge)
        case 0xFE: send(lastSent)
        case 0xFF:
            queue.clear()
            setDefaults()
            isScanning = true
            send(Self.acknowledge)
            send(0xAA)  // the self-test passed
        default: send(0xFE)  // once more: no such command
        }
    }

    private static let acknowledge: UInt8 = 0xFA

    private mutating func take(parameter: UInt8) {
        defer { command = 0 }
        switch command {
        case 0xED: lights = parameter & 7
        case 0xF3: typematic = parameter
        case 0xF0:
            guard parameter <= 3 else {
                send(0xFE)
                return
            }
            send(Self.acknowledge)
            if parameter == 0 { send(codeSet) } else { codeSet = parameter }
            return
        default: break
        }
        send(Self.acknowledge)
    }

    private mutating func setDefaults() {
        lights = 0
        codeSet = 2
        typematic = 0x2B
        command = 0
    }
}
