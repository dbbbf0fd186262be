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
