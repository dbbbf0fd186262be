internal import CElf

extension ELFFile {
    /// The symbol table: `.symtab`, or `.dynsym` where that is missing or empty; nil where neither
    /// has a symbol that names an address.
    ///
    /// Kept are functions, objects and untyped labels in sections that take memory, as LLVM's
    /// symbolizer does; left out are undefined, absolute, common and thread-local symbols, and
    /// those of files and sections.
    func symbolTable() throws(SymbolError) -> SymbolTable? {
        let sections = try sections()
        for type in [UInt32(SHT_SYMTAB), UInt32(SHT_DYNSYM)] {
            var symbols: [Symbol] = []
            for section in sections where section.type == type {
                try read(section, of: sections, into: &symbols)
            }
            if symbols.isEmpty { continue }
            let extents = sections.filter {
                $0.isAllocated && !$0.isThreadLocalZeros && $0.size != 0
            }.map { section in
                let (end, overflow) = section.address.addingReportingOverflow(section.size)
                return section.address..<(overflow ? .max : end)
            }
            return SymbolTable(symbols, sections: extents, lastReach: 0) {
                $0.sizeInBytes < $1.sizeInBytes
            }
        }
        return nil
    }

    private func read(
        _ table: Section, of sections: [Section], into symbols: inout [Symbol]
    ) throws(SymbolError) {
        guard holds(table.offset, table.size) else {
            throw .truncated(
                file: name, what: "the symbol table", offset: table.offset,
                sizeInBytes: table.size)
        }
        let flagsByIndex = Dictionary(
            sections.map { ($0.index, $0) }, uniquingKeysWith: { first, _ in first })
        let failure: SymbolError? = unsafe withHandle { elf in
            // SAFETY: the handle is open during the call; sections, data and strings belong to
            // libelf, which checks indices and offsets; `entry` is a local that the call fills.
            guard let section = unsafe elf_getscn(elf, table.index),
                let data = unsafe elf_getdata(section, nil)
            else {
                return .damaged(
                    file: name, what: "the symbol table", detail: Self.libraryError())
            }
            let entrySize = unsafe gelf_fsize(elf, ELF_T_SYM, 1, UInt32(EV_CURRENT))
            guard entrySize > 0 else { return nil }
            let count = unsafe min(data.pointee.d_size / entrySize, Int(Int32.max))
            for index in stride(from: 1, to: count, by: 1) {
                var entry = GElf_Sym()
                guard unsafe gelf_getsym(data, Int32(index), &entry) != nil else { break }
                guard let kind = Self.kind(entry), isInMemory(entry, flagsByIndex),
                    let text = unsafe elf_strptr(elf, Int(table.link), Int(entry.st_name))
                else { continue }
                let name = unsafe String(cString: text)
                if name.isEmpty { continue }
                symbols.append(
                    Symbol(
                        linkageName: name, address: entry.st_value, sizeInBytes: entry.st_size,
                        kind: kind, binding: Self.binding(entry)))
            }
            return nil
        }
        if let failure { throw failure }
    }

    private func isInMemory(_ entry: GElf_Sym, _ sections: [Int: Section]) -> Bool {
        let index = Int(entry.st_shndx)
        if index == Int(SHN_UNDEF) { return false }
        // The real index of SHN_XINDEX is in another section; such files are rare and large, and
        // their symbols mostly name code.
        if index == Int(SHN_XINDEX) { return true }
        return sections[index]?.isAllocated ?? false
    }

    private static func kind(_ entry: GElf_Sym) -> Symbol.Kind? {
        switch Int32(entry.st_info & 0xF) {
        case STT_FUNC, STT_GNU_IFUNC: .function
        case STT_OBJECT: .object
        case STT_NOTYPE: .untyped
        default: nil
        }
    }

    private static func binding(_ entry: GElf_Sym) -> Symbol.Binding {
        switch Int32(entry.st_info >> 4) {
        case STB_LOCAL: .local
        case STB_WEAK: .weak
        default: .global
        }
    }
}
