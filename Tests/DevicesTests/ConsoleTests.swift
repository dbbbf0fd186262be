import Glibc
import Synchronization
import Testing
import Threads

@testable import Devices

/// Both ends of a pipe; closed at the end of its life.
private struct Pipe: ~Copyable {
    var reader: Int32
    var writer: Int32

    init() throws {
        var ends: [Int32] = [-1, -1]
        // SAFETY: pipe fills two descriptors, and the array has two.
        try #require(unsafe pipe(&ends) == 0)
        (reader, writer) = (ends[0], ends[1])
    }

    mutating func closeReader() {
        close(reader)
        reader = -1
    }

    mutating func closeWriter() {
        close(writer)
        writer = -1
    }

    func send(_ bytes: [UInt8]) {
        // SAFETY: the array's bytes.
        let count = unsafe write(writer, bytes, bytes.count)
        #expect(count == bytes.count)
    }

    /// What is there now, at most 64 KiB, without waiting.
    func receive() -> [UInt8] {
        _ = fcntl(reader, F_SETFL, O_NONBLOCK)
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        // SAFETY: read fills at most the array's count.
        let count = unsafe read(reader, &bytes, bytes.count)
        return Array(bytes.prefix(max(count, 0)))
    }

    deinit {
        if reader >= 0 { close(reader) }
        if writer >= 0 { close(writer) }
    }
}

@Suite struct ConsoleOutputTests {
    @Test func newlinesFlushAndOtherBytesWait() throws {
        let pipe = try Pipe()
        var output = try ConsoleOutput(.descriptor(pipe.writer, name: "pipe"))
        for byte in "ab".utf8 { output.append(byte) }
        #expect(pipe.receive() == [])
        output.append(0x0A)
        #expect(pipe.receive() == Array("ab\n".utf8))
        output.append(0x63)
        output.flush()
        #expect(pipe.receive() == [0x63])
        output.append(0x64)
        _ = consume output
        #expect(pipe.receive() == [0x64])
    }

    @Test func aPromptIsSeenWhenTheGuestWaits() throws {
        let pipe = try Pipe()
        var devices = try DeviceSet(.init(serial: .descriptor(pipe.writer, name: "pipe")))
        func poll(_ devices: inout DeviceSet) {
            var status: UInt8 = 0
            unsafe withUnsafeMutableBytes(of: &status) {
                unsafe devices.portIn(0x3FD, size: 1, into: $0)
            }
        }
        for byte in "> ".utf8 {
            poll(&devices)
            unsafe withUnsafeBytes(of: byte) {
                _ = unsafe devices.portOut(0x3F8, size: 1, $0)
            }
        }
        // The poll that goes with sending the next byte writes nothing yet.
        poll(&devices)
        #expect(pipe.receive() == [])
        #expect(devices.holdsOutput == true)
        poll(&devices)
        #expect(pipe.receive() == Array("> ".utf8))
        #expect(devices.holdsOutput == false)
    }

    @Test func aFullPipeLosesNothing() throws {
        let pipe = try Pipe()
        _ = fcntl(pipe.writer, F_SETFL, O_NONBLOCK)
        let total = 300_000
        // The other side reads on a thread of its own until the end.
        let reader = pipe.reader
        let sum = Atomic<Int>(0)
        let thread = try WorkerThread("to read") {
            var chunk = [UInt8](repeating: 0, count: 1000)
            while true {
                // SAFETY: read fills at most the chunk's count.
                let count = unsafe read(reader, &chunk, chunk.count)
                if count <= 0 { return }
                sum.add(chunk[..<count].reduce(0) { $0 + Int($1) }, ordering: .relaxed)
            }
        }
        var expected = 0
        var output = try ConsoleOutput(.descriptor(pipe.writer, name: "pipe"))
        for index in 0..<total {
            let byte = UInt8(truncatingIfNeeded: index &* 31)
            expected += Int(byte)
            output.append(byte)
        }
        output.flush()
        #expect(output.failure == nil)
        var closing = pipe
        closing.closeWriter()
        thread.join()
        let found = sum.load(ordering: .relaxed)
        #expect(found == expected)
    }

    @Test func aReaderThatIsGoneIsAnErrorValue() throws {
        var pipe = try Pipe()
        pipe.closeReader()
        var output = try ConsoleOutput(.descriptor(pipe.writer, name: "pipe"))
        output.append(0x0A)
        #expect(output.failure?.kind == .readerGone)
        for _ in 0..<100_000 { output.append(0x41) }
        #expect(output.byteCount == 100_001)
        #expect(output.failure?.description == "pipe: nobody reads it any more")
    }

    @Test func aFullDiskIsAnErrorValue() throws {
        var output = try ConsoleOutput(.file("/dev/full"))
        output.append(0x0A)
        #expect(output.failure?.kind == .cannotWrite)
        #expect(output.failure?.description.hasPrefix("/dev/full: ") == true)
    }

    @Test func aFileThatCannotBeOpenedIsAnError() {
        let kind: DeviceError.Kind?
        do throws(DeviceError) {
            _ = try ConsoleOutput(.file("/no/such/directory/file"))
            kind = nil
        } catch { kind = error.kind }
        #expect(kind == .cannotOpen)
    }

    @Test func memoryKeepsEverything() throws {
        var output = try ConsoleOutput(.memory)
        for index in 0..<200_000 { output.append(UInt8(truncatingIfNeeded: index)) }
        let bytes = output.takeBytes()
        #expect(bytes.count == 200_000)
        #expect(bytes[70_000] == UInt8(truncatingIfNeeded: 70_000))
        #expect(output.takeBytes() == [])
    }
}

@Suite struct ConsoleInputTests {
    @Test func keysAfterCtrlA() {
        var keys = ConsoleKeys()
        #expect(keys.take(0x61) == .send(0x61))
        #expect(keys.take(0x03) == .send(0x03))
        for (key, action) in [
            (0x01, .send(1)), (0x61, .send(1)), (0x78, .leave), (0x58, .leave), (0x68, .help),
            (0x7A, .nothing),
        ] as [(UInt8, ConsoleKeys.Action)] {
            #expect(keys.take(0x01) == .nothing)
            #expect(keys.take(key) == action)
        }
        #expect(keys.take(0x78) == .send(0x78))
    }

    @Test func mailboxKeepsOrderAndBound() {
        let mailbox = ConsoleMailbox()
        let capacity = Int(ConsoleMailbox.capacity)
        for index in 0..<capacity { #expect(mailbox.put(UInt8(truncatingIfNeeded: index)) == true) }
        #expect(mailbox.put(0) == false)
        for index in 0..<capacity { #expect(mailbox.take() == UInt8(truncatingIfNeeded: index)) }
        #expect(mailbox.take() == nil)
        #expect(mailbox.isEmpty == true)
        for round in 0..<3 * capacity {
            #expect(mailbox.put(UInt8(truncatingIfNeeded: round)) == true)
            #expect(mailbox.take() == UInt8(truncatingIfNeeded: round))
        }
    }

    @Test func knownBytesRunOut() {
        var input = ConsoleInput(bytes: [1, 2])
        #expect(input.isExhausted == false)
        #expect(input.next() == 1)
        #expect(input.next() == 2)
        #expect(input.next() == nil)
        #expect(input.isExhausted == true)
        #expect(ConsoleInput().isExhausted == true)
    }

    /// All that a session delivers until its end.
    private func drain(_ input: inout ConsoleInput) -> [UInt8] {
        var bytes: [UInt8] = []
        while !input.isExhausted {
            guard let byte = input.next() else {
                sched_yield()
                continue
            }
            bytes.append(byte)
        }
        return bytes
    }

    @Test func aPipeIsDeliveredWholeAndUntouched() throws {
        var pipe = try Pipe()
        let session = try ConsoleSession(descriptor: pipe.reader) {}
        var input = session.input()
        // More than the mailbox holds, with the bytes that are keys on a terminal.
        let bytes = [1, 0x78] + (0..<20_000).map { UInt8(truncatingIfNeeded: $0) }
        pipe.send(bytes)
        pipe.closeWriter()
        #expect(drain(&input) == bytes)
        session.stop()
        session.stop()
    }

    @Test func aSessionEndsWhileNothingComes() throws {
        let pipe = try Pipe()
        let session = try ConsoleSession(descriptor: pipe.reader) {}
        var input = session.input()
        session.stop()
        #expect(input.next() == nil)
        #expect(input.isExhausted == true)
    }

    @Test func aSessionEndsWhileTheMailboxIsFull() throws {
        let pipe = try Pipe()
        let session = try ConsoleSession(descriptor: pipe.reader) {}
        pipe.send([UInt8](repeating: 7, count: 10_000))
        session.stop()
        // Input outlives its session.
        var input = session.input()
        #expect(drain(&input).allSatisfy { $0 == 7 })
    }
}

/// A session on a pseudo-terminal. One at a time: a process restores one terminal.
@Suite(.serialized) struct ConsoleTerminalTests {
    /// Opens both sides of a pseudo-terminal (pty(7), ioctl_tty(2)).
    private func openTerminal() throws -> (user: Int32, host: Int32) {
        let unlock: UInt = 0x4004_5431  // TIOCSPTLCK
        let getNumber: UInt = 0x8004_5430  // TIOCGPTN
        // SAFETY: each ioctl reads or fills the one number it is given.
        let user = unsafe open("/dev/ptmx", O_RDWR | O_NOCTTY)
        try #require(user >= 0)
        var number: Int32 = 0
        let unlocked = unsafe ioctl(user, unlock, &number)
        try #require(unlocked == 0)
        let found = unsafe ioctl(user, getNumber, &number)
        try #require(found == 0)
        let host = unsafe open("/dev/pts/\(number)", O_RDWR | O_NOCTTY)
        try #require(host >= 0)
        return (user, host)
    }

    private func localFlags(_ terminal: Int32) -> tcflag_t {
        var state = termios()
        // SAFETY: tcgetattr fills the one struct it is given.
        #expect(unsafe tcgetattr(terminal, &state) == 0)
        return state.c_lflag
    }

    @Test func keysReachTheGuestOrTheSession() throws {
        let (user, host) = try openTerminal()
        let before = localFlags(host)
        #expect(before & tcflag_t(ECHO | ICANON | ISIG) != 0)
        let left = try Pipe()
        let leftWriter = left.writer
        let session = try ConsoleSession(descriptor: host) {
            // SAFETY: one byte from a constant.
            _ = unsafe write(leftWriter, [1 as UInt8], 1)
        }
        #expect(localFlags(host) & tcflag_t(ECHO | ICANON | ISIG) == 0)
        #expect(ConsoleTerminal.isRaw)
        // Ctrl-C, Ctrl-A Ctrl-A, carriage return; then Ctrl-A X.
        let typed: [UInt8] = [3, 1, 1, 13, 1, 0x78]
        #expect(unsafe write(user, typed, typed.count) == typed.count)
        var signal: UInt8 = 0
        #expect(unsafe read(left.reader, &signal, 1) == 1)
        var input = session.input()
        #expect(input.next() == 3)
        #expect(input.next() == 1)
        #expect(input.next() == 13)
        #expect(input.next() == nil)
        session.stop()
        #expect(localFlags(host) == before)
        #expect(!ConsoleTerminal.isRaw)
        close(user)
        close(host)
    }

    @Test func aTerminalThatHangsUpEndsTheInput() throws {
        let (user, host) = try openTerminal()
        let session = try ConsoleSession(descriptor: host) {}
        close(user)
        let input = session.input()
        while !input.isExhausted { sched_yield() }
        session.stop()
        close(host)
    }
}
