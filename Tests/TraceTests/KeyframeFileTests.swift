import Glibc
import Machine
import TestSupport
import Testing

@testable import Trace

/// Keyframe files: what is written is read, and nothing else is.
struct KeyframeFileTests {
    private static let key = KeyframeKey(
        identity: 7, exitCount: 99, digest: Digest128(low: 1, high: 2),
        conditions: [Property("host.kernel", "6.1"), Property("counter", "yes")])

    private static func page(_ seed: UInt8) -> [UInt8] {
        (0..<4096).map { UInt8(truncatingIfNeeded: $0 / 64) &* seed &+ seed }
    }

    private static let records = [
        KeyframeRecord(
            position: Position(exitCount: 3, instructions: 17), memory: Digest128(low: 5, high: 6),
            parts: [.init(tag: 16, words: [1, .max]), .init(tag: 30, words: [])],
            pages: [
                .init(slot: 0, content: 0), .init(slot: 9, content: nil),
                .init(slot: 300, content: 1),
            ], written: [0, 9, 12, 300]),
        KeyframeRecord(
            position: Position(exitCount: 50, instructions: 1, ring3: 7),
            memory: Digest128(low: 8, high: 6),
            parts: [.init(tag: 16, words: [2])],
            pages: (2..<20).map { .init(slot: $0 * 2, content: $0) }, written: []),
    ]

    /// Writes a file with 20 pages and two records.
    private static func write(_ path: String) throws -> UInt64 {
        var writer = try KeyframeFileWriter(path: path, key: key)
        for number in 0..<20 as Range<UInt32> {
            let page = page(UInt8(number + 1))
            let given = try unsafe page.withUnsafeBytes { try unsafe writer.add(page: $0) }
            #expect(given == number)
        }
        for record in records { try writer.add(record) }
        return try writer.finish()
    }

    private static func file() throws -> [UInt8] {
        let directory = try TemporaryDirectory()
        let path = directory.file("keys")
        _ = try write(path)
        return try #require(Files.read(path))
    }

    private static func pages(_ file: KeyframeFile) throws(TraceError) -> [[UInt8]] {
        var pages: [[UInt8]] = []
        for number in 0..<file.pageCount {
            let page = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 8)
            defer { unsafe page.deallocate() }
            guard let base = page.baseAddress else { continue }
            try unsafe file.copyPage(number, to: base)
            pages.append(unsafe Array(page))
        }
        return pages
    }

    @Test func `what is written is read`() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("keys")
        let length = try Self.write(path)
        let file = try KeyframeFile(path: path, key: Self.key)
        #expect(file.fileBytes == length)
        #expect(file.records == Self.records)
        #expect(file.key == Self.key)
        #expect(try Self.pages(file) == (1...20).map { Self.page($0) })
        // It holds a guest's memory.
        var status = stat()
        // SAFETY: the status is a local, the path a string.
        #expect(unsafe stat(path, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        #expect(throws: TraceError.self) {
            try unsafe withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 8) { room in
                if let base = room.baseAddress { try unsafe file.copyPage(20, to: base) }
            }
        }
    }

    @Test func `another is replaced only when the new one is complete`() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("keys")
        _ = try Self.write(path)
        let before = Files.read(path)
        do {
            var writer = try KeyframeFileWriter(path: path, key: Self.key)
            try writer.add(Self.records[0])
        }
        #expect(Files.read(path) == before)
        #expect(Files.read("\(path).\(getpid()).partial") == nil)
    }

    @Test func `a file of something else is refused, and says of what`() throws {
        let bytes = try Self.file()
        func refusal(_ change: (inout KeyframeKey) -> Void) -> KeyframeFileError? {
            var key = Self.key
            change(&key)
            do throws(KeyframeFileError) {
                _ = try KeyframeFile(bytes: bytes, key: key)
                return nil
            } catch { return error }
        }
        #expect(refusal { _ in } == nil)
        for change in [
            { $0.identity += 1 }, { $0.exitCount += 1 }, { $0.digest.low += 1 },
        ] as [(inout KeyframeKey) -> Void] {
            let error = refusal(change)
            #expect(error?.kind == .unusable)
            #expect(error?.message.contains("of another recording") == true)
        }
        let kernel = refusal { $0.conditions[0].value = "6.2" }
        #expect(kernel?.kind == .unusable)
        #expect(kernel?.message.contains("host.kernel is 6.2 here and 6.1 there") == true)
        #expect(refusal { $0.conditions.removeLast() }?.kind == .unusable)
    }

    @Test func `what is no keyframe file is foreign`() throws {
        for bytes in [Array("#!/bin/sh\necho".utf8), [UInt8](repeating: 0, count: 500), [1]] {
            #expect {
                try KeyframeFile(bytes: bytes, key: Self.key)
            } throws: { ($0 as? KeyframeFileError)?.kind == .foreign }
        }
        #expect {
            try KeyframeFile(path: "/nonexistent/keys", key: Self.key)
        } throws: { ($0 as? KeyframeFileError)?.kind == .absent }
        #expect {
            try KeyframeFile(path: "/tmp", key: Self.key)
        } throws: { ($0 as? KeyframeFileError)?.kind == .foreign }
        #expect {
            try KeyframeFile(bytes: [], key: Self.key)
        } throws: { ($0 as? KeyframeFileError)?.kind == .unusable }
    }

    /// Whatever is read of a damaged file is what was written.
    private static func check(_ bytes: [UInt8], _ what: @autoclosure () -> String) {
        let file: KeyframeFile
        do throws(KeyframeFileError) { file = try KeyframeFile(bytes: bytes, key: key) } catch {
            #expect(!error.message.isEmpty && !error.message.contains("\n"))
            return
        }
        #expect(file.records == records, "\(what())")
        do throws(TraceError) {
            let read = try pages(file)
            #expect(read == (1...20).map { page($0) }, "\(what())")
            Issue.record("no damage seen: \(what())")
        } catch { #expect(!error.description.isEmpty) }
    }

    @Test func `every byte flipped is seen, at the opening or at the page`() throws {
        let bytes = try Self.file()
        for index in bytes.indices {
            var damaged = bytes
            damaged[index] ^= UInt8(1 << (index % 8))
            Self.check(damaged, "byte \(index)")
        }
    }

    @Test func `every truncation is seen`() throws {
        let bytes = try Self.file()
        for length in bytes.indices { Self.check(Array(bytes[..<length]), "\(length) bytes") }
    }

    @Test func `records that make no sense are refused`() throws {
        let bytes: [[UInt8]] = [
            // Slots that do not ascend, a page that is not there, a slot beyond all, half a word.
            [3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0],
            [3, 0, 0, 0, 2, 0, 0, 0, 5, 9],
            [4, 0, 0, 0, 5, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
            [16, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4],
            [1, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4],
            [1, 0, 0, 0, 99, 0, 0, 0],
        ]
        for payload in bytes {
            #expect(throws: Malformed.self, "\(payload)") {
                try unsafe payload.withUnsafeBytes {
                    _ = try unsafe KeyframeRecord(payload: $0, pageCount: 8)
                }
            }
        }
    }
}
