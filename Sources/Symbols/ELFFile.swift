internal import CElf

/// Owns a copy of an ELF file's bytes and libelf's view of them. Everything that libelf and libdw
/// hand out points into the copy or into memory they own, and lives as long as this object.
@safe final class ELFFile {
    /// What error values call the file.
    let name: String
    /// The size of the file in bytes.
    let count: Int
    private let memory: UnsafeMutableRawBufferPointer
    private let elf: OpaquePointer
    private let header: GElf_Ehdr

    /// A section header, with the fields that are used here.
    struct Section {
        var index: Int
        var type: UInt32
        var flags: UInt64
        var address: UInt64
        var offset: UInt64
        var size: UInt64
        var link: UInt32

        var isAllocated: Bool { flags & UInt64(SHF_ALLOC) != 0 }
        /// Thread-local zeros take no room where their address says.
        var isThreadLocalZeros: Bool {
            flags & UInt64(SHF_TLS) != 0 && type == UInt32(SHT_NOBITS)
        }
    }

    /// A PT_LOAD program header, with the fields that are used here.
    struct Segment {
        var virtualAddress: UInt64
        var physicalAddress: UInt64
        var sizeInMemory: UInt64
    }

    /// EM_*: what machine the code is for.
    var machine: UInt16 { header.e_machine }

    static func isELF(_ bytes: [UInt8]) -> Bool { bytes.starts(with: [0x7F, 0x45, 0x4C, 0x46]) }

    init(_ bytes: [UInt8], name: String) throws(SymbolError) {
        guard Self.isELF(bytes) else { throw .notELF(file: name) }
        // The smaller of the two file headers (ELF32) is 52 bytes.
        guard bytes.count >= 52 else {
            throw .truncated(file: name, what: "the ELF header", offset: 0, sizeInBytes: 52)
        }
        elf_version(UInt32(EV_CURRENT))
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 16)
        unsafe memory.copyBytes(from: bytes)
        // SAFETY: the buffer is not empty, holds `bytes.count` bytes and outlives the handle: only
        // deinit frees it, after elf_end.
        let handle = unsafe elf_memory(
            memory.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        guard let handle = unsafe handle else {
            unsafe memory.deallocate()
            throw .damaged(file: name, what: "the ELF header", detail: Self.libraryError())
        }
        var header = GElf_Ehdr()
        // SAFETY: the handle is open; the header is a local that the call fills.
        guard unsafe elf_kind(handle) == ELF_K_ELF, unsafe gelf_getehdr(handle, &header) != nil
        else {
            let detail = Self.libraryError()
            unsafe elf_end(handle)
            unsafe memory.deallocate()
            throw .damaged(file: name, what: "the ELF header", detail: detail)
        }
        self.name = name
        self.count = bytes.count
        unsafe self.memory = unsafe memory
        unsafe self.elf = unsafe handle
        self.header = header
    }

    deinit {
        // SAFETY: opened and allocated in init, used by nobody else after this.
        unsafe elf_end(elf)
        unsafe memory.deallocate()
    }

    /// Calls `body` with libelf's handle, which is valid during the call.
    func withHandle<R>(_ body: (OpaquePointer) throws -> R) rethrows -> R {
        // SAFETY: self keeps the handle open until after the call.
        defer { withExtendedLifetime(self) {} }
        return unsafe try body(elf)
    }

    /// libelf's text for the last error on this thread.
    static func libraryError() -> String {
        // SAFETY: -1 asks for the last error; the text is static, or null where there is none.
        guard let text = unsafe elf_errmsg(-1) else { return "unknown error" }
        return unsafe String(cString: text)
    }

    /// The section headers.
    func sections() throws(SymbolError) -> [Section] {
        let offset = header.e_shoff
        if offset == 0 { return [] }
        let entrySize = UInt64(header.e_shentsize)
        // 0 or SHN_XINDEX means that the number does not fit; libelf looks it up then.
        let size = max(UInt64(header.e_shnum), 1) * entrySize
        guard holds(offset, size) else {
            throw .truncated(
                file: name, what: "the section header table", offset: offset, sizeInBytes: size)
        }
        var sections: [Section] = []
        unsafe forEachSection { section, header in
            sections.append(
                Section(
                    index: unsafe elf_ndxscn(section), type: header.sh_type,
                    flags: header.sh_flags, address: header.sh_addr, offset: header.sh_offset,
                    size: header.sh_size, link: header.sh_link))
            return true
        }
        return sections
    }

    /// Calls `body` with each section and its header, valid during the call, until it gives false.
    /// Sections without a readable header are left out.
    func forEachSection(_ body: (OpaquePointer, GElf_Shdr) -> Bool) {
        unsafe withHandle { elf in
            // SAFETY: the handle is open; elf_nextscn walks from null over sections libelf owns.
            var section = unsafe elf_nextscn(elf, nil)
            while let current = unsafe section {
                var header = GElf_Shdr()
                if unsafe gelf_getshdr(current, &header) != nil {
                    guard unsafe body(current, header) else { return }
                }
                unsafe section = unsafe elf_nextscn(elf, current)
            }
        }
    }

    /// The PT_LOAD program headers that take memory; none where the table is damaged.
    func segments() -> [Segment] {
        var count = 0
        // SAFETY: the handle is open; `count` and `header` are locals that the calls fill.
        guard unsafe elf_getphdrnum(elf, &count) == 0, count <= Int(Int32.max) else { return [] }
        var segments: [Segment] = []
        for index in 0..<count {
            var header = GElf_Phdr()
            guard unsafe gelf_getphdr(elf, Int32(index), &header) != nil else { break }
            if header.p_type == UInt32(PT_LOAD), header.p_memsz != 0 {
                segments.append(
                    Segment(
                        virtualAddress: header.p_vaddr, physicalAddress: header.p_paddr,
                        sizeInMemory: header.p_memsz))
            }
        }
        return segments
    }

    /// The NT_GNU_BUILD_ID note; nil where there is none, or none that can be read.
    var buildID: [UInt8]? {
        var bytes: UnsafeRawPointer?
        // SAFETY: the handle is open; on success `bytes` points to `count` bytes that libelf owns.
        let count = unsafe dwelf_elf_gnu_build_id(elf, &bytes)
        guard count > 0, let bytes = unsafe bytes else { return nil }
        return unsafe [UInt8](UnsafeRawBufferPointer(start: bytes, count: count))
    }

    /// The .gnu_debuglink section: the name of the file of debug information and its CRC-32.
    var debugLink: (fileName: String, checksum: UInt32)? {
        var checksum: GElf_Word = 0
        // SAFETY: the handle is open; the name is a C string that libelf owns.
        guard let text = unsafe dwelf_elf_gnu_debuglink(elf, &checksum) else { return nil }
        return (unsafe String(cString: text), checksum)
    }

    /// Whether a part of the file is inside it.
    func holds(_ offset: UInt64, _ size: UInt64) -> Bool {
        offset <= UInt64(count) && size <= UInt64(count) - offset
    }
}
