import Glibc
import TestSupport
import Testing

@testable import Analysis

@Test func jsonIsWellFormed() {
    let stream = OutputStream()
    var json = JSONWriter(stream)
    json.beginObject()
    json.key("a")
    json.value(UInt64.max)
    json.key("list")
    json.beginArray()
    json.value(-5)
    json.beginObject()
    json.endObject()
    json.value("q\"\\\n\u{1}é")
    json.endArray()
    json.key("hex")
    json.value(hex: 0xFEE0_0000)
    json.key("bytes")
    json.value(hexBytes: [0, 0xAB])
    json.key("nan")
    json.value(Double.nan)
    json.endObject()
    json.endLine()
    #expect(
        stream.text == #"""
            {"a":18446744073709551615,"list":[-5,{},"q\"\\\n\u0001é"],"hex":"0xfee00000","bytes":"00ab","nan":null}

            """#)
}

@Test func hexadecimalIsPadded() {
    let stream = OutputStream()
    for (value, digits) in [(0, 1), (0, 4), (0xF, 2), (0x10, 1), (UInt64.max, 4)] {
        stream.write(hex: value, digits: digits)
        stream.write(" ")
    }
    #expect(stream.text == "0 0000 0f 10 ffffffffffffffff ")
}

@Test func decimalsOfEveryLength() {
    let stream = OutputStream()
    var value: UInt64 = 0
    var expected = ""
    for _ in 0..<21 {
        stream.write(decimal: value)
        expected += String(value)
        value = value &* 10 &+ 9
    }
    for value in [9, 10, 99, 100, UInt64.max, UInt64.max / 10, 10_000_000_000_000_000_000] {
        stream.write(decimal: value)
        expected += String(value)
    }
    #expect(stream.text == expected)
}

@Test func streamsWriteEverythingToTheirDescriptor() throws {
    let directory = try TemporaryDirectory()
    let path = "\(directory.path)/out"
    // SAFETY: the string is alive through the call.
    let descriptor = unsafe open(path, O_CREAT | O_WRONLY, 0o600)
    let stream = OutputStream(descriptor: descriptor)
    var expected = ""
    for number in 0..<30_000 {
        stream.write("line \(number)\n")
        expected += "line \(number)\n"
    }
    stream.write(String(repeating: "x", count: 200_000))
    expected += String(repeating: "x", count: 200_000)
    stream.flush()
    close(descriptor)
    #expect(!stream.hasFailed)
    #expect(readText(path) == expected)
    let broken = OutputStream(descriptor: -1)
    broken.write("lost")
    broken.flush()
    #expect(broken.failure == EBADF)
}
