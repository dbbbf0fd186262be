import CElf
import Machine

/// What loading needs of an ELF file, read by libelf and checked against the file's length.
struct ELFImage {
    var is64Bit: Bool
    var entry: UInt64
    /// The PT_LOAD segments that take memory, in the file's order.
    var segments: [ImageSegment]
    /// Executable sections that the file holds, `.altinstr_replacement` included.
    var codeSections: [CodeSection]

    struct CodeSection {
        var name: String
        var virtual: UInt64
        var fileRange: Range<Int>
    }

    /// The most segments or sections that are looked at.
    private static let maximumCount = 65_536

    /// Reads an ELF executable for x86.
    ///
    /// Throws ``GuestError`` of kind unsupported, truncated or malformed.
    init(_ bytes: [UInt8], name: String) throws(GuestError) {
        func fail(_ kind: GuestError.Kind, _ message: String) -> GuestError {
            GuestError(kind, name, message)
        }
        try Self.checkIdentification(bytes, name)
        guard elf_version(UInt32(EV_CURRENT)) != UInt32(EV_NONE) else {
            throw fail(.unsupported, "libelf does not know the current ELF version")
        }
        // libelf wants memory it may write to.
        let length = bytes.count
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: length, alignment: 16)
        // SAFETY: allocated above; freed last, after elf_end, which runs first (defer order).
        defer { unsafe copy.deallocate() }
        unsafe copy.copyBytes(from: bytes)
        // SAFETY: libelf reads `length` bytes that live until after elf_end; the handle is checked.
        let start = unsafe copy.baseAddress?.assumingMemoryBound(to: CChar.self)
        guard let elf = unsafe elf_memory(start, length) else {
            throw fail(.malformed, "not a readable ELF file (\(Self.libelfMessage()))")
        }
        defer { unsafe elf_end(elf) }
        // SAFETY: libelf fills the one struct it is given, here and below.
        var header = GElf_Ehdr()
        guard unsafe gelf_getehdr(elf, &header) != nil else {
            throw fail(.truncated, "the ELF header is cut off (\(Self.libelfMessage()))")
        }
        is64Bit = bytes[4] == UInt8(ELFCLASS64)
        let machine = is64Bit ? EM_X86_64 : EM_386
        guard Int32(header.e_machine) == machine else {
            throw fail(
                .unsupported,
                "built for ELF machine \(header.e_machine), not for x86-"
                    + (is64Bit ? "64" : "32") + " (\(machine))")
        }
        guard Int(header.e_type) == ET_EXEC || Int(header.e_type) == ET_DYN else {
            throw fail(
                .unsupported, "ELF type \(header.e_type) is not an executable (2 or 3); link it")
        }
        entry = header.e_entry
        var count = 0
        guard unsafe elf_getphdrnum(elf, &count) == 0, count <= Self.maximumCount else {
            throw fail(.truncated, "the program headers are cut off (\(Self.libelfMessage()))")
        }
        segments = []
        for index in 0..<count {
            var program = GElf_Phdr()
            guard unsafe gelf_getphdr(elf, Int32(index), &program) != nil else {
                throw fail(
                    .truncated,
                    "program header \(index) is cut off (\(Self.libelfMessage()))")
            }
            guard program.p_type == UInt32(PT_LOAD), program.p_memsz > 0 else { continue }
            segments.append(try Self.segment(program, index, fileLength: length, name))
        }
        guard !segments.isEmpty else {
            throw fail(.malformed, "the ELF file has no segment to load (PT_LOAD)")
        }
        codeSections = unsafe Self.codeSections(elf, fileLength: length)
    }

    private static func checkIdentification(
        _ bytes: [UInt8], _ name: String
    ) throws(GuestError) {
        guard bytes.starts(with: [0x7F, 0x45, 0x4C, 0x46]) else {
            throw GuestError(.unsupported, name, "not an ELF file (no 7F 45 4C 46 at its start)")
        }
        guard bytes.count >= 52 else {
            throw GuestError(
                .truncated, name, "the ELF header is cut off after \(bytes.count) bytes")
        }
        guard Int(bytes[4]) == ELFCLASS32 || Int(bytes[4]) == ELFCLASS64 else {
            throw GuestError(
                .unsupported, name, "the ELF class (offset 4) is neither 32-bit nor 64-bit")
        }
        guard Int(bytes[5]) == ELFDATA2LSB else {
            throw GuestError(
                .unsupported, name, "the ELF byte order (offset 5) is not little-endian")
        }
    }

    private static func segment(
        _ program: GElf_Phdr, _ index: Int, fileLength: Int, _ name: String
    ) throws(GuestError) -> ImageSegment {
        let (fileEnd, overflow) = program.p_offset.addingReportingOverflow(program.p_filesz)
        guard !overflow, fileEnd <= UInt64(fileLength) else {
            throw GuestError(
                .truncated, name,
                "program header \(index) needs \(program.p_filesz) bytes at offset "
                    + "\(hex(program.p_offset)), the file has \(fileLength)")
        }
        guard program.p_filesz <= program.p_memsz else {
            throw GuestError(
                .malformed, name,
                "program header \(index) has more bytes in the file (\(program.p_filesz)) than in "
                    + "memory (\(program.p_memsz))")
        }
        for (field, start) in [("physical", program.p_paddr), ("virtual", program.p_vaddr)]
        where start.addingReportingOverflow(program.p_memsz - 1).overflow {
            throw GuestError(
                .malformed, name,
                "program header \(index) runs past the end of the \(field) address space "
                    + "(\(size(program.p_memsz)) at \(hex(start)))")
        }
        return ImageSegment(
            fileRange: Int(program.p_offset)..<Int(fileEnd), physical: program.p_paddr,
            virtual: program.p_vaddr, lengthInMemory: program.p_memsz,
            isExecutable: program.p_flags & UInt32(PF_X) != 0)
    }

    /// Section headers only tell more about what is loaded anyway: damaged ones are left out.
    private static func codeSections(_ elf: OpaquePointer, fileLength: Int) -> [CodeSection] {
        var sections: [CodeSection] = []
        var namesIndex = 0
        guard unsafe elf_getshdrstrndx(elf, &namesIndex) == 0 else { return [] }
        // SAFETY: the handle is open; libelf gives sections of it until nil, and strings inside of
        // its copy of the file; each is copied at once.
        var next = unsafe elf_nextscn(elf, nil)
        while let section = unsafe next, sections.count < maximumCount {
            unsafe next = unsafe elf_nextscn(elf, section)
            var header = GElf_Shdr()
            guard unsafe gelf_getshdr(section, &header) != nil,
                header.sh_type == UInt32(SHT_PROGBITS), header.sh_size > 0,
                header.sh_flags & UInt64(SHF_ALLOC) != 0,
                let text = unsafe elf_strptr(elf, namesIndex, Int(header.sh_name))
            else { continue }
            let name = unsafe String(cString: text)
            let isCode = header.sh_flags & UInt64(SHF_EXECINSTR) != 0
            let (end, overflow) = header.sh_offset.addingReportingOverflow(header.sh_size)
            guard isCode || name == ".altinstr_replacement", !overflow,
                end <= UInt64(fileLength)
            else { continue }
            sections.append(
                CodeSection(
                    name: name, virtual: header.sh_addr,
                    fileRange: Int(header.sh_offset)..<Int(end)))
        }
        return sections
    }

    private static func libelfMessage() -> String {
        // SAFETY: libelf gives a constant string, or nil where there was no error.
        guard let text = unsafe elf_errmsg(-1) else { return "no reason given" }
        return unsafe String(cString: text)
    }
}
