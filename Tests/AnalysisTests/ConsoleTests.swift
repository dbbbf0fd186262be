import Machine
import Testing
import Trace

@testable import Analysis

private func text(_ console: ConsoleExtractor) -> String {
    String(decoding: console.output, as: UTF8.self)
}

@Test func consoleFollowsDivisorLatchAndLoopback() {
    var console = ConsoleExtractor([.uart(0x3F8)])
    console.add(port: 0x3F8, size: 1, data: [0x41].span)
    console.add(port: 0x3FB, size: 1, data: [0x80].span)  // LCR: DLAB on
    console.add(port: 0x3F8, size: 1, data: [0x01].span)  // divisor, not printed
    console.add(port: 0x3FB, size: 1, data: [0x03].span)
    console.add(port: 0x3F8, size: 1, data: [0x42].span)
    console.add(port: 0x3FC, size: 1, data: [0x10].span)  // MCR: loopback on
    console.add(port: 0x3F8, size: 1, data: [0xAE].span)
    console.add(port: 0x3FC, size: 1, data: [0x0B].span)
    console.add(port: 0x3F8, size: 1, data: [0x43].span)
    console.add(port: 0x3F9, size: 1, data: [0x5A].span)
    console.add(port: 0x2F8, size: 1, data: [0x5A].span)
    #expect(text(console) == "ABC")
    console.removeOutput()
    #expect(console.output.isEmpty)
}

@Test func consoleTakesStringsAndWideAccesses() {
    var console = ConsoleExtractor([.uart(0x3F8), .debugPort(0xE9)])
    console.add(port: 0x3F8, size: 1, data: Array("hello".utf8).span)
    // A 16-bit OUT reaches two registers: the second byte goes to IER.
    console.add(port: 0x3F8, size: 2, data: [0x21, 0x00, 0x21, 0x00].span)
    console.add(port: 0xE9, size: 1, data: Array(" you".utf8).span)
    console.add(port: 0xE8, size: 2, data: [0x00, 0x2E].span)
    #expect(text(console) == "hello!! you.")
}

@Test func consolesAreFoundInTheMachine() {
    let machine = MachineDescription(
        ramBytes: 4096,
        devices: [
            DeviceDescription(name: "16550a", base: "port 0x3f8", interrupt: "4"),
            DeviceDescription(name: "debug-console", base: "port 0x402"),
            DeviceDescription(name: "isa-debug-exit", base: "port 0xf4"),
            DeviceDescription(
                name: "uart16550", base: "port 0x2f8..0x2ff", configuration: "memory=0xfe000000"),
            DeviceDescription(name: "uart", base: "memory 0xfe000000..0xfe000007"),
            DeviceDescription(name: "16550a", base: "somewhere"),
        ])
    #expect(
        ConsoleDevice.consoles(of: machine) == [
            .uart(0x3F8), .debugPort(0x402), .uart(0x2F8, memory: 0xFE00_0000),
        ])
}

@Test func consoleReadsFrames() {
    var console = ConsoleExtractor([.uart(0x3F8)])
    var frame = ExitFrame()
    frame.detail = .io(isWrite: true, size: 1, port: 0x3F8, count: 12, data: 0..<0)
    frame.sent = ExitData(Array("Hello world\n".utf8))
    console.add(frame)
    frame.detail = .io(isWrite: false, size: 1, port: 0x3F8, count: 1, data: 0..<0)
    console.add(frame)
    #expect(text(console) == "Hello world\n")
}

@Test func consoleReadsUARTsInMemory() {
    var console = ConsoleExtractor([.uart(0x3F8, memory: 0xFE00_0000)])
    var frame = ExitFrame()
    for (offset, value) in [(3, 0x80), (0, 0x58), (3, 0x03), (0, 0x41), (1, 0x58)]
        as [(UInt64, UInt64)]
    {
        frame.detail = .mmio(
            address: GuestPhysicalAddress(0xFE00_0000 + offset), length: 1, isWrite: true,
            value: value)
        console.add(frame)
    }
    console.add(port: 0x3F8, size: 1, data: [0x42].span)
    console.add(address: 0xFDFF_FFFF, length: 2, value: 0x4300)
    #expect(text(console) == "ABC")
}
