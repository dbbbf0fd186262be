import Machine
import Testing

@testable import GDBRemote

@Suite struct RegisterTests {
    private let layout = RegisterLayout.x86_64

    private func number(_ name: String) -> Int {
        layout.registers.firstIndex { $0.name == name } ?? -1
    }

    private func value(_ name: String, _ registers: TargetRegisters) throws -> UInt64 {
        let register = layout.registers[number(name)]
        let bytes = try #require(RegisterCoding.bytes(of: register, in: registers))
        return bytes.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    private func set(
        _ name: String, _ value: UInt64, _ registers: inout TargetRegisters
    ) throws {
        let register = layout.registers[number(name)]
        let bytes = (0..<register.size).map {
            $0 < 8 ? UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) : 0
        }
        try RegisterCoding.set(register, to: bytes, in: &registers)
    }

    /// All registers known: FXSAVE bytes count up, the system is a flat 64-bit one.
    private func complete() throws -> TargetRegisters {
        var general = GeneralRegisters()
        for index in 0..<GeneralRegisters.count { general.words[index] = UInt64(index) << 40 | 7 }
        var system = SystemRegisters()
        for name in SystemRegisters.SegmentName.allCases {
            system[name] = Segment(
                base: name == .cs ? 0 : 0x1000 * UInt64(name.rawValue),
                selector: UInt16(8 * name.rawValue), l: name == .cs)
        }
        system[.cr0] = 0x8000_0011
        system[.efer] = 0xD01
        system.gdt = DescriptorTable(base: 0x5000, limit: 0x7F)
        system.idt = DescriptorTable(base: 0x6000, limit: 0xFFF)
        let area = (0..<512).map { UInt8(truncatingIfNeeded: $0) }
        return TargetRegisters(
            general: general, system: system, kernelGSBase: 0x9999,
            floatingPoint: FloatingPointState(area))
    }

    /// gdb counts on these numbers in `x86-64` stop replies, and QEMU's users on the names.
    @Test func numbersAreTheOnesOfTheFeatures() {
        let expected = [
            "rax": 0, "rbx": 1, "rcx": 2, "rdx": 3, "rsi": 4, "rdi": 5, "rbp": 6, "rsp": 7,
            "r8": 8, "r15": 15, "rip": 16, "eflags": 17, "cs": 18, "ss": 19, "ds": 20, "es": 21,
            "fs": 22, "gs": 23, "st0": 24, "fctrl": 32, "fop": 39, "xmm0": 40, "mxcsr": 56,
            "fs_base": 57, "gs_base": 58, "k_gs_base": 59, "cr0": 60, "cr2": 61, "cr3": 62,
            "cr4": 63, "cr8": 64, "efer": 65,
        ]
        for (name, number) in expected { #expect(self.number(name) == number, "\(name)") }
        #expect(
            layout.expedited.map { layout.registers[$0].name } == [
                "rbp", "rsp", "rip",
            ])
        #expect(Set(layout.registers.map(\.name)).count == layout.registers.count)
    }

    @Test func numbersOf32BitGuestsAreTheOnesOfTheFeatures() throws {
        let names = RegisterLayout.i386.registers.map(\.name)
        #expect(
            names.prefix(16) == [
                "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags", "cs", "ss",
                "ds", "es", "fs", "gs",
            ])
        #expect(names.firstIndex(of: "st0") == 16)
        #expect(names.firstIndex(of: "xmm0") == 32)
        #expect(names.firstIndex(of: "mxcsr") == 40)
        #expect(!names.contains("xmm8") && !names.contains("k_gs_base"))
        #expect(Set(names).count == names.count)
        let registers = try complete()
        let text = RegisterCoding.allAsText(registers, .i386)
        #expect(text.count == 2 * RegisterLayout.i386.size)
        #expect(String(decoding: text.prefix(16), as: UTF8.self) == "0700000007000000")
    }

    @Test func showsEachRegister() throws {
        let registers = try complete()
        #expect(try value("rbx", registers) == 1 << 40 | 7)
        #expect(try value("rip", registers) == 16 << 40 | 7)
        #expect(try value("eflags", registers) == 7, "32 bits of it")
        #expect(try value("ss", registers) == 40)
        #expect(try value("gs_base", registers) == 0x4000)
        #expect(try value("k_gs_base", registers) == 0x9999)
        #expect(try value("cr0", registers) == 0x8000_0011)
        #expect(try value("gdt_limit", registers) == 0x7F)
        #expect(try value("idt_base", registers) == 0x6000)
        // Places in the FXSAVE area.
        #expect(try value("fctrl", registers) == 0x0100)
        #expect(try value("fstat", registers) == 0x0302)
        #expect(try value("fop", registers) == 0x0706)
        #expect(try value("fioff", registers) == 0x0B0A_0908)
        #expect(try value("fooff", registers) == 0x1312_1110)
        #expect(try value("mxcsr", registers) == 0x1B1A_1918)
        #expect(try value("st1", registers) == 0x3736_3534_3332_3130)
        #expect(try value("xmm1", registers) == 0xB7B6_B5B4_B3B2_B1B0)
    }

    /// gdb has no segments: it is told where code lies.
    @Test func instructionPointerIsLinear() throws {
        var registers = try complete()
        registers.general.rip = 0xFFF0
        registers.system?[.cr0] = 0
        registers.system?[.cs] = Segment(base: 0xFFFF_0000, selector: 0xF000)
        #expect(try value("rip", registers) == 0xFFFF_FFF0)
        #expect(try value("ip", registers) == 0xFFF0)
        #expect(try value("cs_base", registers) == 0xFFFF_0000)
        try set("rip", 0xFFFF_FFF5, &registers)
        #expect(registers.general.rip == 0xFFF5)
        registers.system?[.cs].base = 0x10_0000
        registers.general.rip = 0xFFFF_FFFF
        #expect(try value("rip", registers) == 0xF_FFFF, "32 bits of the sum")
        // In 64-bit code bases do not count.
        registers = try complete()
        registers.system?[.cs].base = 0x1234
        #expect(try value("rip", registers) == 16 << 40 | 7)
    }

    @Test func unknownRegistersAreUnavailable() throws {
        let registers = TargetRegisters(general: GeneralRegisters())
        let text = String(decoding: RegisterCoding.allAsText(registers, layout), as: UTF8.self)
        #expect(text.utf8.count == layout.size * 2)
        #expect(text.hasPrefix(String(repeating: "0", count: 17 * 16 + 8) + "xxxxxxxx"))
    }

    @Test func setsWhatASettingReaches() throws {
        var registers = try complete()
        let names = [
            "rax", "r15", "rip", "ip", "eflags", "fs_base", "gs_base", "k_gs_base", "cr0", "cr3",
            "cr8", "efer", "st3", "fctrl", "mxcsr", "xmm15",
        ]
        for name in names {
            let width = layout.registers[number(name)].size
            let new: UInt64 = width == 8 ? 0x1234_5678_9ABC_DEF0 : 0x1A2B
            try set(name, new, &registers)
            #expect(try value(name, registers) == new, "\(name)")
        }
        #expect(registers.general.rflags >> 32 == 17 << 8, "the high half stays")
        for name in ["cs", "tr", "cs_base", "gdt_base", "idt_limit"] {
            #expect(throws: DebugError("\(name) cannot be set from a debugger")) {
                try set(name, 1, &registers)
            }
        }
    }

    @Test func settingAllSetsWhatDiffers() throws {
        var registers = try complete()
        let text = RegisterCoding.allAsText(registers, layout)
        var bytes = try #require(HexText.bytes(text[...]))
        try RegisterCoding.setAll(bytes, in: &registers, layout)
        #expect(
            RegisterCoding.allAsText(registers, layout) == text, "nothing changed, nothing refused")
        bytes[8] = 0xEE
        try RegisterCoding.setAll(bytes, in: &registers, layout)
        #expect(registers.general[.rbx] == 1 << 40 | 0xEE)
    }

    @Test func tagWordIsWrittenOut() throws {
        var area = [UInt8](repeating: 0, count: 512)
        // TOP is 6; R6 (ST0), R7 (ST1) and R0 (ST2) are in use.
        area[3] = 6 << 3
        area[4] = 0b1100_0001
        // ST0 is 1.0, ST1 zero, ST2 infinity.
        area[32 + 7] = 0x80
        area[32 + 8] = 0xFF
        area[32 + 9] = 0x3F
        area[64 + 7] = 0x80
        area[64 + 8] = 0xFF
        area[64 + 9] = 0x7F
        let known = FloatingPointState(area)
        let state = try #require(known)
        // R7 zero, R6 valid, R5 to R1 empty, R0 special.
        #expect(TagWord.full(state) == 0b01_00_11_11_11_11_11_10)
        #expect(TagWord.abridged(0b01_00_11_11_11_11_11_10) == 0b1100_0001)
    }

    @Test func floatingPointNeedsItsWholeArea() {
        #expect(FloatingPointState([UInt8](repeating: 0, count: 415)) == nil)
        #expect(FloatingPointState([UInt8](repeating: 0, count: 4096))?.bytes.count == 416)
    }
}
