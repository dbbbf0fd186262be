import TestSupport
import Testing

/// Files that a guest reads by fw_cfg, from the command line into the trace and out of it.
@Suite(.enabled(if: RealKVM.isThere, RealKVM.comment))
struct FirmwareInputTests {
    /// Prints fw_cfg's file 0x21, the second of the directory, up to its NUL.
    ///
    ///     mov dx, 0x510; mov ax, 0x21; out dx, ax; inc dx
    ///     again: in al, dx; out 0xe9, al; test al, al; jnz again; hlt
    private static let guest: [UInt8] = [
        0xBA, 0x10, 0x05, 0xB8, 0x21, 0x00, 0xEF, 0x42,
        0xEC, 0xE6, 0xE9, 0x84, 0xC0, 0x75, 0xF9, 0xF4,
    ]

    @Test func `a file reaches the guest, and the devices that the trace makes again`() throws {
        let directory = try TemporaryDirectory()
        let (image, file) = (directory.file("guest.bin"), directory.file("words"))
        let (trace, printed) = (directory.file("t.vmtape"), directory.file("printed"))
        try Files.write(image, Self.guest)
        try Files.write(file, Array("from fw_cfg".utf8))
        let record = try ChildProcess.run([
            "record", "-q", "--machine", "pc", "--fw-cfg", "opt/test=\(file)", "--serial", "none",
            "--debug-console", printed, "-o", trace, image,
        ])
        #expect(record.ending == .status(0), "\(record.errors)")
        #expect(Files.text(printed) == "from fw_cfg\0")
        // Neither file is needed any more.
        try Files.write(file, Array("something else".utf8))
        for options in [[], ["--devices"]] {
            let replay = try ChildProcess.run(["replay", trace] + options)
            #expect(replay.ending == .status(0), "\(options): \(replay.errors)")
        }
        let info = try ChildProcess.run(["info", trace])
        #expect(info.output.contains("fw_cfg-file"), "\(info.output)")
    }

    @Test func `what no machine hands out is refused in one line`() throws {
        let directory = try TemporaryDirectory()
        let image = directory.file("guest.bin")
        try Files.write(image, Self.guest)
        func run(_ options: String...) throws -> ChildProcess.Result {
            try ChildProcess.run(["run"] + options + [image])
        }
        try run("--fw-cfg", "a=\(image)").expectOneLine("belongs to a PC", "--machine pc")
        try run("--machine", "pc", "--fw-cfg", "a").expectOneLine("--fw-cfg a", "NAME=FILE")
        try run("--machine", "pc", "--fw-cfg", "a=/nowhere").expectOneLine("/nowhere")
    }
}
