/// The kinds of guest image that can be started. The raw value is the name in options and traces.
public enum GuestKind: String, CaseIterable, Sendable {
    /// A flat binary entered in real mode.
    case flatReal = "flat-real"
    /// A flat binary entered in 64-bit mode.
    case flatLong = "flat-long"
    /// A 64-bit ELF executable, entered in 64-bit mode at its link addresses.
    case elf64
    /// A 32-bit ELF executable without a multiboot header, entered in flat protected mode.
    case elf32
    /// A multiboot (version 1) kernel, entered as the specification says.
    case multiboot
    /// A Linux kernel, bzImage or vmlinux, entered by the 64-bit boot protocol.
    case linux
    /// A firmware image, entered at the reset vector.
    case firmware

    /// Whether it takes a PC for granted: interrupt controllers, timers, a clock.
    public var expectsPC: Bool { self == .linux || self == .firmware }

    /// The kind of an unpacked image, by its content alone.
    ///
    /// A kernel's vmlinux is an ELF file like others, and has to be told to be one of Linux'. A
    /// multiboot header goes before ELF, since such a kernel expects to be called by a boot
    /// loader. What is nothing else is a flat real-mode binary. Throws ``GuestError`` of kind
    /// unsupported for what is known and cannot be started.
    static func recognise(_ bytes: [UInt8], name: String) throws(GuestError) -> GuestKind {
        let isELF = bytes.starts(with: [0x7F, 0x45, 0x4C, 0x46])
        // Before a multiboot header: firmware that is itself a loader (U-Boot) may contain one.
        if !isELF, isFirmware(bytes) { return .firmware }
        if let header = MultibootHeader.find(in: bytes), isELF || header.hasAddresses {
            return .multiboot
        }
        if isELF {
            guard bytes.count > 4, bytes[4] == 1 || bytes[4] == 2 else {
                throw GuestError(
                    .unsupported, name, "the ELF class (offset 4) is neither 32-bit nor 64-bit")
            }
            return bytes[4] == 2 ? .elf64 : .elf32
        }
        if LinuxHeader.isThere(bytes) { return .linux }
        guard !bytes.starts(with: [0x23, 0x21]) else {
            throw GuestError(.unsupported, name, "a script (#!), not a guest image")
        }
        return .flatReal
    }

    /// Whether an image is as long as a ROM is and has a jump where a CPU starts: 16 bytes before
    /// its end (Intel SDM vol. 3, 10.1.4), after a few instructions that firmware puts there.
    static func isFirmware(_ bytes: [UInt8]) -> Bool {
        guard bytes.count >= 64 << 10, bytes.count % (64 << 10) == 0, bytes.count <= 16 << 20
        else { return false }
        var vector = bytes[(bytes.count - 16)...]
        for _ in 0..<4 {
            if vector.starts(with: [0x0F, 0x09]) {  // WBINVD
                vector = vector.dropFirst(2)
            } else if let first = vector.first, [0x90, 0xFA, 0xFC, 0x66].contains(first) {
                vector = vector.dropFirst()  // NOP, CLI, CLD, operand size
            }
        }
        guard let opcode = vector.first else { return false }
        return opcode == 0xEA || opcode == 0xE9 || opcode == 0xEB  // JMP far, near, short
    }
}
