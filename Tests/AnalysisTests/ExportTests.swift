import Machine
import TestSupport
import Testing
import Trace

@testable import Analysis

private func export(
    _ format: ExportFormat, _ path: String, registers: ShownRegisters = .none,
    measure: TimeMeasure? = nil
) throws -> [UInt8] {
    let reader = try TraceReader(path: path)
    let stream = OutputStream()
    var exporter = Exporter(
        format, to: stream, of: reader, registers: registers, names: syntheticNames(),
        measure: measure)
    var frames = try FrameReader(reader)
    var frame = ExitFrame()
    while try frames.next(into: &frame) { exporter.add(frame) }
    exporter.finish()
    return stream.bytes
}

private func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

@Test(arguments: [ExportFormat.csv, .folded, .cast])
func textExportsLookAsTheyDid(_ format: ExportFormat) throws {
    let directory = try TemporaryDirectory()
    let path = try writeShowcase("\(directory.path)/a.vmtape", greeting: "Grüße\n")
    expectSnapshot(text(try export(format, path)), "export.\(format.rawValue)")
}

@Test func csvHasTheSameColumnsEverywhere() throws {
    let directory = try TemporaryDirectory()
    for timing in [true, false] {
        let path = try writeShowcase("\(directory.path)/a.vmtape", timing: timing)
        for registers in ShownRegisters.allCases {
            let lines = text(try export(.csv, path, registers: registers)).split(separator: "\n")
            #expect(lines.count == 19)
            let columns = lines[0].split(separator: ",", omittingEmptySubsequences: false).count
            #expect(columns == (registers == .none ? 22 : 39))
            for line in lines {
                // No field of the showcase holds a comma.
                #expect(
                    line.split(separator: ",", omittingEmptySubsequences: false).count == columns,
                    "\(line)")
            }
        }
    }
}

@Test func jsonLinesAreThoseOfDump() throws {
    let directory = try TemporaryDirectory()
    let path = try writeShowcase("\(directory.path)/a.vmtape")
    let lines = text(try export(.jsonl, path)).split(separator: "\n")
    #expect(lines.count == 18)
    #expect(
        lines.allSatisfy { $0.hasPrefix("{\"schema\":\"vmtape.exit/1\",") && $0.hasSuffix("}") })
}

@Test func foldedCountsEveryExit() throws {
    let directory = try TemporaryDirectory()
    let path = try writePolling("\(directory.path)/a.vmtape", exits: 1001)
    let lines = text(try export(.folded, path)).split(separator: "\n")
    #expect(
        lines == [
            "kmain.putc(Swift.UInt8) -> ();in 0x3fd 501",
            "kmain.putc(Swift.UInt8) -> ();out 0x3f8 500",
        ])
}

@Test func castKeepsCharactersTogether() {
    #expect(CastExport.unfinished([]) == 0)
    #expect(CastExport.unfinished([0x41]) == 0)
    #expect(CastExport.unfinished([0x41, 0xC3]) == 1)
    #expect(CastExport.unfinished([0xC3, 0xBC]) == 0)
    #expect(CastExport.unfinished([0xE2, 0x82]) == 2)
    #expect(CastExport.unfinished([0xE2, 0x82, 0xAC]) == 0)
    #expect(CastExport.unfinished([0xF0, 0x9F, 0x98]) == 3)
    #expect(CastExport.unfinished([0xF0, 0x9F, 0x98, 0x80]) == 0)
    #expect(CastExport.unfinished([0x80, 0x80, 0x80, 0x80]) == 0)
    #expect(CastExport.unfinished([0xFF]) == 0)
}

@Test func aCharacterSplitOverPiecesIsWhole() throws {
    let directory = try TemporaryDirectory()
    var trace = try SyntheticTrace("\(directory.path)/a.vmtape")
    for byte: UInt8 in [0x41, 0xC3, 0xBC, 0x42] {
        try trace.out(0xE9, [byte], at: 0x10_0000, took: 5_000_000)
    }
    let lines = text(try export(.cast, trace.finish())).split(separator: "\n").dropFirst()
    #expect(lines.map { $0.split(separator: ",").last } == ["\"A\"]", "\"ü\"]", "\"B\"]"])
    #expect(!lines.joined().contains("\u{FFFD}"))
}

// MARK: Perfetto, read back with a decoder of its own

private enum ProtobufValue: Equatable {
    case number(UInt64)
    case bytes([UInt8])
}

private struct Undecodable: Error {}

private func decode(_ bytes: [UInt8]) throws -> [(field: UInt64, value: ProtobufValue)] {
    var at = 0
    func varint() throws -> UInt64 {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 70, by: 7) {
            guard at < bytes.count else { throw Undecodable() }
            let byte = bytes[at]
            at += 1
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
        }
        throw Undecodable()
    }
    var fields: [(UInt64, ProtobufValue)] = []
    while at < bytes.count {
        let key = try varint()
        switch key & 7 {
        case 0: fields.append((key >> 3, .number(try varint())))
        case 2:
            let length = Int(try varint())
            guard length <= bytes.count - at else { throw Undecodable() }
            fields.append((key >> 3, .bytes(Array(bytes[at..<at + length]))))
            at += length
        default: throw Undecodable()
        }
    }
    return fields
}

extension [(field: UInt64, value: ProtobufValue)] {
    fileprivate func number(_ field: UInt64) -> UInt64? {
        for entry in self where entry.field == field {
            if case .number(let number) = entry.value { return number }
        }
        return nil
    }

    fileprivate func messages(_ field: UInt64) throws -> [[(field: UInt64, value: ProtobufValue)]] {
        try compactMap {
            guard $0.field == field, case .bytes(let bytes) = $0.value else { return nil }
            return try decode(bytes)
        }
    }

    fileprivate func text(_ field: UInt64) -> String? {
        for entry in self where entry.field == field {
            if case .bytes(let bytes) = entry.value {
                return String(decoding: bytes, as: UTF8.self)
            }
        }
        return nil
    }
}

@Test(arguments: [true, false])
func perfettoSlicesAreWellFormed(_ timing: Bool) throws {
    let directory = try TemporaryDirectory()
    let path = try writeShowcase("\(directory.path)/a.vmtape", timing: timing)
    let packets = try decode(export(.perfetto, path)).map { entry in
        guard entry.field == 1, case .bytes(let bytes) = entry.value else { throw Undecodable() }
        return try decode(bytes)
    }
    var names: [UInt64: String] = [:]
    var tracks: [UInt64: String] = [:]
    var open: [UInt64: Int] = [:]
    var lastTime: [UInt64: UInt64] = [:]
    var shown: [String] = []
    for (index, packet) in packets.enumerated() {
        #expect(packet.number(10) == 1)
        for interned in try packet.messages(12) {
            for entry in try interned.messages(2) {
                names[try #require(entry.number(1))] = entry.text(2)
            }
        }
        for descriptor in try packet.messages(60) {
            tracks[try #require(descriptor.number(1))] = descriptor.text(2) ?? "process"
            #expect(index == 0 ? packet.number(13) == 1 : descriptor.number(5) == 1)
        }
        for event in try packet.messages(11) {
            let track = try #require(event.number(11))
            let title = try #require(tracks[track])
            let time = try #require(packet.number(8))
            #expect(time >= lastTime[track, default: 0])
            lastTime[track] = time
            let type = event.number(9)
            if type == 1 { open[track, default: 0] += 1 }
            if type == 2 { open[track, default: 0] -= 1 }
            #expect((0...1).contains(open[track, default: 0]))
            let name = event.number(10).map { names[$0] ?? "?" } ?? event.text(23)
            let exit = try event.messages(4).first?.number(3)
            if type != 2 {
                shown.append(
                    "\(title): \(name ?? "-")\(exit.map { ", exit \($0)" } ?? "")"
                        + (event.number(30).map { " = \($0)" } ?? ""))
            }
        }
    }
    #expect(open.values.allSatisfy { $0 == 0 })
    #expect(!shown.contains { $0.contains("?") })
    expectSnapshot(
        shown.joined(separator: "\n") + "\n", "export.perfetto\(timing ? "" : "-untimed").txt")
}
