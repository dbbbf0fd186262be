/// The first serial port, polled: every byte waits for the transmitter to be empty.
enum Console {
    @inline(never)
    static func write(byte: UInt8) {
        while port_read8(0x3FD) & 0x20 == 0 {}
        port_write8(0x3F8, byte)
    }

    @inline(never)
    static func write(_ text: StaticString) {
        text.withUTF8Buffer { bytes in
            for byte in bytes { write(byte: byte) }
        }
    }

    @inline(never)
    static func write(decimal value: UInt64) {
        if value >= 10 { write(decimal: value / 10) }
        write(byte: UInt8(truncatingIfNeeded: value % 10) + UInt8(ascii: "0"))
    }

    @inline(never)
    static func write(hexadecimal value: UInt32) {
        for shift in stride(from: UInt32(28), through: 0, by: -4) {
            let digit = UInt8(truncatingIfNeeded: value >> shift & 0xF)
            write(byte: digit < 10 ? digit + UInt8(ascii: "0") : digit - 10 + UInt8(ascii: "a"))
        }
    }
}
