import Machine

/// The notes of a core file: what Linux writes of a thread (`elf_prstatus` of linux/elfcore.h,
/// user_regs_struct of asm/user.h), and what QEMU's dump-guest-memory adds of a CPU, which crash
/// reads.
struct CoreNotes {
    let format: CoreFormat
    private(set) var bytes: [UInt8] = []

    init(_ format: CoreFormat) { self.format = format }

    // Types of notes (elf.h).
    private static let status: UInt32 = 1
    private static let floatingPoint: UInt32 = 2
    private static let process: UInt32 = 3
    private static let extendedFloatingPoint: UInt32 = 0x46E6_2B7F
    /// NT_X86_XSTATE.
    private static let extended: UInt32 = 0x202
    /// The size of what FXSAVE stores.
    static let floatingPointLength = 512

    /// The thread of one CPU; its number stands for the thread's, from 1.
    mutating func addThread(_ number: Int, _ cpu: CoreFile.CPU) {
        var content: [UInt8] = []
        // Signal information, current signal, pending and held signals.
        content.append(zeros: 16 + 2 * format.wordSize)
        content.append(littleEndian: UInt32(truncatingIfNeeded: number + 1))
        // Parent, group and session, then four times.
        content.append(zeros: 12 + 8 * format.wordSize)
        for value in registers(cpu) { content.append(word: value, format) }
        let hasFloatingPoint = cpu.floatingPoint.count == Self.floatingPointLength
        content.append(littleEndian: UInt32(hasFloatingPoint ? 1 : 0))
        if format == .elf64 { content.append(zeros: 4) }
        add("CORE", Self.status, content)
        guard hasFloatingPoint else { return }
        switch format {
        case .elf64: add("CORE", Self.floatingPoint, cpu.floatingPoint)
        case .elf32: add("LINUX", Self.extendedFloatingPoint, cpu.floatingPoint)
        }
        if cpu.extended.count > Self.floatingPointLength {
            add("LINUX", Self.extended, cpu.extended)
        }
    }

    private func registers(_ cpu: CoreFile.CPU) -> [UInt64] {
        let registers = cpu.registers
        let system = cpu.system
        func selector(_ name: SystemRegisters.SegmentName) -> UInt64 {
            UInt64(system[name].selector)
        }
        /// ORIG_RAX: not in a system call.
        let none = UInt64.max
        switch format {
        case .elf64:
            return [
                registers[.r15], registers[.r14], registers[.r13], registers[.r12],
                registers[.rbp], registers[.rbx], registers[.r11], registers[.r10],
                registers[.r9], registers[.r8], registers[.rax], registers[.rcx],
                registers[.rdx], registers[.rsi], registers[.rdi], none, registers.rip,
                selector(.cs), registers.rflags, registers[.rsp], selector(.ss),
                system[.fs].base, system[.gs].base, selector(.ds), selector(.es),
                selector(.fs), selector(.gs),
            ]
        case .elf32:
            return [
                registers[.rbx], registers[.rcx], registers[.rdx], registers[.rsi],
                registers[.rdi], registers[.rbp], registers[.rax], selector(.ds), selector(.es),
                selector(.fs), selector(.gs), none, registers.rip, selector(.cs),
                registers.rflags, registers[.rsp], selector(.ss),
            ]
        }
    }

    /// What gdb says the core is of (`elf_prpsinfo`). The program is what it compares with the name
    /// of the file of symbols, in vain where the name does not fit.
    mutating func addProcess(program: String, title: String) {
        guard (1..<Self.programLength).contains(program.utf8.count) else { return }
        var content: [UInt8] = []
        // State, then flags.
        content.append(zeros: format == .elf64 ? 16 : 8)
        // User and group (16 bits each in the 32-bit form), then four process numbers.
        content.append(zeros: (format == .elf64 ? 8 : 4) + 16)
        content.append(text: program, in: Self.programLength)
        content.append(text: title, in: 80)
        add("CORE", Self.process, content)
    }

    private static let programLength = 16

    /// The system registers of one CPU, as QEMU's dump-guest-memory lays them out, version 1.
    mutating func addSystemRegisters(_ cpu: CoreFile.CPU) {
        var content: [UInt8] = []
        content.append(littleEndian: UInt32(1))
        content.append(littleEndian: UInt32(Self.systemLength))
        let order: [Register] = [
            .rax, .rbx, .rcx, .rdx, .rsi, .rdi, .rsp, .rbp,
            .r8, .r9, .r10, .r11, .r12, .r13, .r14, .r15, .rip, .rflags,
        ]
        for register in order { content.append(littleEndian: cpu.registers[register]) }
        for name in [SystemRegisters.SegmentName.cs, .ds, .es, .fs, .gs, .ss, .ldt, .tr] {
            let segment = cpu.system[name]
            content.append(littleEndian: UInt32(segment.selector))
            content.append(littleEndian: segment.limit)
            content.append(littleEndian: segment.descriptorFlags)
            content.append(littleEndian: UInt32(0))
            content.append(littleEndian: segment.base)
        }
        for table in [cpu.system.gdt, cpu.system.idt] {
            content.append(littleEndian: UInt32(0))
            content.append(littleEndian: UInt32(table.limit))
            content.append(zeros: 8)
            content.append(littleEndian: table.base)
        }
        for control in [
            cpu.system[.cr0], 0, cpu.system[.cr2], cpu.system[.cr3], cpu.system[.cr4],
            cpu.kernelGSBase,
        ] { content.append(littleEndian: control) }
        add("QEMU", 0, content)
    }

    /// Two words, 18 registers, ten segments of 24 bytes, five control registers and a base.
    private static let systemLength = 8 + 18 * 8 + 10 * 24 + 6 * 8

    private mutating func add(_ name: String, _ type: UInt32, _ content: [UInt8]) {
        bytes.append(littleEndian: UInt32(name.utf8.count + 1))
        bytes.append(littleEndian: UInt32(content.count))
        bytes.append(littleEndian: type)
        bytes.append(text: name, in: (name.utf8.count + 4) & ~3)
        bytes += content
        bytes.append(zeros: -content.count & 3)
    }
}

/// The two classes of ELF files.
enum CoreFormat {
    case elf32, elf64

    var wordSize: Int { self == .elf64 ? 8 : 4 }
    var headerLength: Int { self == .elf64 ? 64 : 52 }
    var programHeaderLength: Int { self == .elf64 ? 56 : 32 }
    /// EM_X86_64, EM_386.
    var machine: UInt16 { self == .elf64 ? 62 : 3 }
}

extension [UInt8] {
    mutating func append(zeros count: Int) {
        append(contentsOf: repeatElement(0, count: Swift.max(0, count)))
    }

    /// A number as wide as addresses are.
    mutating func append(word: UInt64, _ format: CoreFormat) {
        switch format {
        case .elf64: append(littleEndian: word)
        case .elf32: append(littleEndian: UInt32(truncatingIfNeeded: word))
        }
    }

    /// A text of at most `length` - 1 bytes, filled up with zeros.
    mutating func append(text: String, in length: Int) {
        let bytes = text.utf8.prefix(length - 1)
        append(contentsOf: bytes)
        append(zeros: length - bytes.count)
    }
}

extension Segment {
    /// The attributes as they stand in the upper half of a descriptor (Intel SDM vol. 3, 3.4.5).
    fileprivate var descriptorFlags: UInt32 {
        func bit(_ flag: Bool, _ place: UInt32) -> UInt32 { flag ? 1 << place : 0 }
        return UInt32(type & 0xF) << 8 | bit(s, 12) | UInt32(dpl & 3) << 13 | bit(present, 15)
            | bit(avl, 20) | bit(l, 21) | bit(db, 22) | bit(g, 23)
    }
}
