internal import Analysis
internal import CXXHash
internal import Trace

/// The trace reader over a whole file: as it is, and again with its checksums made right, so that
/// what lies behind them is reached too.
enum TraceTarget {
    static func run(_ input: [UInt8]) {
        read(input, tail: nil)
        var sealed = input
        seal(&sealed)
        if sealed != input { read(sealed, tail: nil) }
    }

    /// Reads all there is in a trace, by every way of reading.
    static func read(_ bytes: [UInt8], tail: [UInt8]?) {
        guard let reader = try? TraceReader(bytes: bytes, tail: tail) else { return }
        let report = reader.verify()
        for index in 0..<reader.eventBlockCount { _ = try? reader.summary(ofBlock: index) }
        for index in reader.header.images.indices { _ = try? reader.imageBytes(index) }
        _ = try? reader.end()
        _ = try? reader.memoryDigest()
        goThroughEvents(reader, isSound: report.isSound)
        goThroughRows(reader)
        print(reader)
    }

    private static func goThroughEvents(_ reader: TraceReader, isSound: Bool) {
        guard var cursor = try? reader.events() else { return }
        // A block may be damaged, and another lost before it; then it goes on.
        let bound = reader.eventBlockCount * 2 + 1
        var failures = 0
        while failures <= bound {
            do throws(TraceError) {
                guard let event = try cursor.next() else { break }
                if case .completion(let range) = event { _ = cursor.changes(range) }
            } catch { failures += 1 }
        }
        require(failures <= bound, "reading goes on after damage")
        require(!isSound || failures == 0, "what verify calls sound can be read")
        _ = try? reader.events(from: reader.exitCount / 2)
    }

    private static func goThroughRows(_ reader: TraceReader) {
        guard reader.eventBlockCount > 0, var cursor = try? reader.tape() else { return }
        do throws(TraceError) {
            while let row = unsafe try cursor.next() {
                // SAFETY: the row is looked at before the cursor moves.
                _ = unsafe row.answer?.data.count
                _ = unsafe row.end
            }
        } catch {}
    }

    /// `info` and `dump` of it, into memory.
    private static func print(_ reader: TraceReader) {
        let stream = OutputStream()
        let info = TraceInfo(reader)
        info.write(to: stream, style: TextStyle())
        info.writeJSON(to: stream)
        guard var frames = try? FrameReader(reader) else { return }
        let names = AddressNames()
        var text = TraceText(
            stream, style: TextStyle(), options: DumpOptions(registers: .all), names: names)
        var json = ExitJSON(stream, registers: .all, names: names)
        var console = ConsoleExtractor(machine: reader.header.machine)
        var frame = ExitFrame()
        var failures = 0
        while failures <= reader.eventBlockCount * 2 + 1 {
            do throws(TraceError) {
                guard try frames.next(into: &frame) else { return }
                text.write(frame)
                json.write(frame)
                console.add(frame)
                console.removeOutput()
            } catch { failures += 1 }
        }
    }

    // MARK: Checksums

    /// Recomputes the checks of the prelude and of every block that can be found from one to the
    /// next (FORMAT.md, "Prelude" and "Block header"), which a keyframe file has too.
    static func seal(_ bytes: inout [UInt8]) {
        guard bytes.count >= 64 else { return }
        put(hash(bytes[0..<56]), &bytes, at: 56)
        let identity = word(bytes, at: 24)
        var at = 64
        while at + 128 <= bytes.count {
            let stored = Int(word(bytes, at: at + 16) & 0xFFFF_FFFF)
            guard stored <= bytes.count - at - 128 else { return }
            put(hash(bytes[(at + 128)..<(at + 128 + stored)]), &bytes, at: at + 112)
            put(hash(bytes[at..<(at + 120)]) ^ identity, &bytes, at: at + 120)
            at += 128 + (stored + 7) & ~7
        }
    }

    static func hash(_ bytes: ArraySlice<UInt8>, seed: UInt64 = 0) -> UInt64 {
        // SAFETY: the pointer covers the slice during the call.
        unsafe bytes.withUnsafeBytes { bytes in
            unsafe XXH3_64bits_withSeed(bytes.baseAddress, bytes.count, seed)
        }
    }

    static func word(_ bytes: [UInt8], at offset: Int) -> UInt64 {
        (0..<8).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64($1 * 8) }
    }

    static func put(_ value: UInt64, _ bytes: inout [UInt8], at offset: Int, count: Int = 8) {
        for index in 0..<count {
            bytes[offset + index] = UInt8(truncatingIfNeeded: value >> UInt64(index * 8))
        }
    }
}
