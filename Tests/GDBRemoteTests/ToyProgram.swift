/// A program of a few x86-64 instructions, with symbols: calls a function five times that counts
/// up in memory, stores the sum and halts.
enum ToyProgram {
    static let codeBase: UInt64 = 0x40_0000
    static let dataBase: UInt64 = 0x50_0000
    /// The counter that `bump` counts up.
    static let counter = dataBase
    /// Where the result is stored in the end.
    static let result = dataBase + 8
    static let stackTop = dataBase + 0x1000

    static let start = codeBase
    static let loop = codeBase + 5
    static let bump = codeBase + 0x20
    /// The store in `bump`.
    static let store = bump + 15
    /// Where `bump` returns to.
    static let afterCall = loop + 5
    static let calls = 5
    /// `spin: jmp spin`, at the end of the code.
    static let spin = codeBase + 0x40

    static let code: [UInt8] = {
        var code: [UInt8] = [
            0xB9, 5, 0, 0, 0,  // _start: mov ecx, 5
            0xE8, 0x16, 0, 0, 0,  // loop: call bump
            0x48, 0xFF, 0xC9,  // dec rcx
            0x75, 0xF6,  // jnz loop
            0x48, 0x89, 0x04, 0x25, 0x08, 0, 0x50, 0,  // mov [result], rax
            0xF4,  // hlt
        ]
        code += [UInt8](repeating: 0x90, count: 0x20 - code.count)
        code += [
            0x55,  // bump: push rbp
            0x48, 0x89, 0xE5,  // mov rbp, rsp
            0x48, 0x8B, 0x04, 0x25, 0, 0, 0x50, 0,  // mov rax, [counter]
            0x48, 0xFF, 0xC0,  // inc rax
            0x48, 0x89, 0x04, 0x25, 0, 0, 0x50, 0,  // mov [counter], rax
            0x5D,  // pop rbp
            0xC3,  // ret
        ]
        code += [UInt8](repeating: 0x90, count: 0x40 - code.count)
        return code + [0xEB, 0xFE]
    }()

    /// Instructions from the start to the one that halts, which is not executed.
    static let instructions: UInt64 = 1 + 5 * (1 + 7 + 2) + 1

    // MARK: As a file

    /// The program as an ELF file with a symbol table (gABI, "Object Files").
    static let elf: [UInt8] = {
        func number(_ value: UInt64, _ count: Int) -> [UInt8] {
            (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        }
        let names = Array("\0_start\0loop\0bump\0counter\0spin\0".utf8)
        func symbol(_ name: Int, _ type: UInt8, _ section: UInt64, _ at: UInt64, _ size: UInt64)
            -> [UInt8]
        {
            number(UInt64(name), 4) + [0x10 | type, 0] + number(section, 2) + number(at, 8)
                + number(size, 8)
        }
        let symbols =
            [UInt8](repeating: 0, count: 24) + symbol(1, 2, 1, start, 5) + symbol(8, 0, 1, loop, 0)
            + symbol(13, 2, 1, bump, 26) + symbol(18, 1, 0xFFF1, counter, 8)
            + symbol(26, 2, 1, spin, 2)
        let sectionNames = Array("\0.text\0.symtab\0.strtab\0.shstrtab\0".utf8)
        let codeAt: UInt64 = 0x1000
        let symbolsAt = codeAt + UInt64(code.count)
        let namesAt = symbolsAt + UInt64(symbols.count)
        let sectionNamesAt = namesAt + UInt64(names.count)
        let sectionsAt = sectionNamesAt + UInt64(sectionNames.count)
        func section(
            _ name: UInt64, _ type: UInt64, _ flags: UInt64, _ address: UInt64, _ at: UInt64,
            _ size: Int, _ link: UInt64 = 0, _ info: UInt64 = 0, _ entry: UInt64 = 0
        ) -> [UInt8] {
            number(name, 4) + number(type, 4) + number(flags, 8) + number(address, 8)
                + number(at, 8) + number(UInt64(size), 8) + number(link, 4) + number(info, 4)
                + number(1, 8) + number(entry, 8)
        }
        let identification: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, 2, 1, 1] + number(0, 9)
        let header =
            identification + number(2, 2) + number(62, 2) + number(1, 4) + number(start, 8)
            + number(64, 8) + number(sectionsAt, 8) + number(0, 4) + number(64, 2) + number(56, 2)
            + number(1, 2) + number(64, 2) + number(5, 2) + number(4, 2)
        let program =
            number(1, 4) + number(5, 4) + number(codeAt, 8) + number(codeBase, 8)
            + number(codeBase, 8) + number(UInt64(code.count), 8) + number(UInt64(code.count), 8)
            + number(0x1000, 8)
        var file = header + program
        file += [UInt8](repeating: 0, count: Int(codeAt) - file.count)
        file += code + symbols + names + sectionNames
        file += section(0, 0, 0, 0, 0, 0)
        file += section(1, 1, 6, codeBase, codeAt, code.count)
        file += section(7, 2, 0, 0, symbolsAt, symbols.count, 3, 1, 24)
        file += section(15, 3, 0, 0, namesAt, names.count)
        file += section(23, 3, 0, 0, sectionNamesAt, sectionNames.count)
        return file
    }()

    /// The same as a 32-bit file, for a debugger that takes the CPU for an i386.
    static let elf32: [UInt8] = {
        func number(_ value: UInt64, _ count: Int) -> [UInt8] {
            (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        }
        func words(_ values: UInt64...) -> [UInt8] { values.flatMap { number($0, 4) } }
        func symbol(_ name: UInt64, _ at: UInt64, _ size: UInt64) -> [UInt8] {
            words(name, at, size) + [0x12, 0, 1, 0]
        }
        let names = Array("\0_start\0bump\0".utf8)
        let symbols =
            [UInt8](repeating: 0, count: 16) + symbol(1, start, 5) + symbol(8, bump, 26)
        let sectionNames = Array("\0.text\0.symtab\0.strtab\0.shstrtab\0".utf8)
        let codeAt: UInt64 = 0x1000
        let symbolsAt = codeAt + UInt64(code.count)
        let namesAt = symbolsAt + UInt64(symbols.count)
        let sectionNamesAt = namesAt + UInt64(names.count)
        let sectionsAt = sectionNamesAt + UInt64(sectionNames.count)
        var file: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, 1, 1, 1] + number(0, 9)
        file += number(2, 2) + number(3, 2) + words(1, start, 52, sectionsAt, 0)
        file += number(52, 2) + number(32, 2) + number(1, 2)
        file += number(40, 2) + number(5, 2) + number(4, 2)
        let size = UInt64(code.count)
        file += words(1, codeAt, codeBase, codeBase, size, size, 5, 0x1000)
        file += [UInt8](repeating: 0, count: Int(codeAt) - file.count)
        file += code + symbols + names + sectionNames
        file += words(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        file += words(1, 1, 6, codeBase, codeAt, size, 0, 0, 1, 0)
        file += words(7, 2, 0, 0, symbolsAt, UInt64(symbols.count), 3, 1, 4, 16)
        file += words(15, 3, 0, 0, namesAt, UInt64(names.count), 0, 0, 1, 0)
        file += words(23, 3, 0, 0, sectionNamesAt, UInt64(sectionNames.count), 0, 0, 1, 0)
        return file
    }()
}
