internal import CElf

/// The entries of one section of call frame information.
struct CallFrameSection {
    let name: String
    let bytes: [UInt8]
    /// Where the section is linked; relative addresses in `.eh_frame` count from it.
    let address: UInt64
    /// `.eh_frame`, which differs in details from `.debug_frame`.
    let isExceptionData: Bool
    let machine: CallFrameMachine
    /// The common parts that entries named so far.
    private(set) var commons: [CallFrameCommon] = []
    /// The first thing that could not be read.
    private(set) var damage: String?
    private var commonsByOffset: [Int: Int?] = [:]

    init(
        name: String, bytes: [UInt8], address: UInt64, isExceptionData: Bool,
        machine: CallFrameMachine
    ) {
        self.name = name
        self.bytes = bytes
        self.address = address
        self.isExceptionData = isExceptionData
        self.machine = machine
    }

    /// What is said of one function (an FDE).
    struct Entry {
        /// The first address, as linked.
        var start: UInt64
        var length: UInt64
        /// The index of the common part in ``commons``.
        var common: Int
        /// Offsets of the instructions in the section.
        var instructions: Range<Int>
    }

    /// All entries in the order of the section; those that make no sense are left out, and the
    /// rest too where a length leads out of the section.
    mutating func entries() -> [Entry] {
        var entries: [Entry] = []
        var offset = 0
        while offset < bytes.count {
            guard let frame = frame(at: offset) else {
                note("the entry at offset \(hexadecimal(UInt64(offset)))")
                break
            }
            // A length of zero ends .eh_frame; linkers pad .debug_frame with them.
            if frame.content.isEmpty, isExceptionData { break }
            offset = frame.content.upperBound
            guard !frame.content.isEmpty, let common = frame.common else { continue }
            if let entry = entry(frame, commonAt: common) {
                entries.append(entry)
            } else {
                note("the entry that ends at offset \(hexadecimal(UInt64(offset)))")
            }
        }
        return entries
    }

    private mutating func note(_ what: String) {
        if damage == nil { damage = "\(name): \(what) makes no sense" }
    }

    /// What an entry starts with.
    private struct Frame {
        /// What comes after the length and the reference.
        var content: Range<Int>
        /// The offset of the common part; nil for one that is a common part itself.
        var common: Int?
    }

    private func frame(at offset: Int) -> Frame? {
        var reader = CallFrameReader(bytes, offset..<bytes.count)
        guard var length = reader.unsigned(4) else { return nil }
        let isWide = length == 0xFFFF_FFFF
        if isWide {
            guard let wide = reader.unsigned(8) else { return nil }
            length = wide
        }
        let start = reader.offset
        guard length <= UInt64(bytes.count - start) else { return nil }
        let end = start + Int(length)
        if length == 0 { return Frame(content: start..<start, common: nil) }
        // Only .debug_frame has wide references.
        let size = isWide && !isExceptionData ? 8 : 4
        guard Int(length) >= size, let reference = reader.unsigned(size) else { return nil }
        let content = reader.offset..<end
        if isExceptionData {
            if reference == 0 { return Frame(content: content, common: nil) }
            guard reference <= UInt64(start) else { return nil }
            return Frame(content: content, common: start - Int(reference))
        }
        if reference == (size == 8 ? .max : 0xFFFF_FFFF) {
            return Frame(content: content, common: nil)
        }
        guard reference < UInt64(bytes.count) else { return nil }
        return Frame(content: content, common: Int(reference))
    }

    private mutating func entry(_ frame: Frame, commonAt offset: Int) -> Entry? {
        guard let index = commonIndex(at: offset) else { return nil }
        let common = commons[index]
        var reader = CallFrameReader(bytes, frame.content)
        guard let start = common.encoding.read(&reader),
            let length = common.encoding.readLength(&reader)
        else { return nil }
        if common.hasAugmentationData, reader.block() == nil { return nil }
        return Entry(
            start: start, length: length, common: index,
            instructions: reader.offset..<frame.content.upperBound)
    }

    private mutating func commonIndex(at offset: Int) -> Int? {
        if let known = commonsByOffset[offset] { return known }
        var index: Int?
        if let common = common(at: offset) {
            index = commons.count
            commons.append(common)
        }
        commonsByOffset[offset] = .some(index)
        return index
    }

    private func common(at offset: Int) -> CallFrameCommon? {
        guard let frame = frame(at: offset), frame.common == nil else { return nil }
        var reader = CallFrameReader(bytes, frame.content)
        var pointer = CallFramePointer(wordSize: machine.wordSize, sectionAddress: address)
        guard let version = reader.byte(), [1, 3, 4].contains(version),
            let augmentation = reader.string()
        else { return nil }
        if version == 4 {
            guard let wordSize = reader.byte(), [4, 8].contains(wordSize), reader.byte() == 0 else {
                return nil
            }
            pointer.wordSize = Int(wordSize)
        }
        guard let codeAlignment = reader.uleb(), let dataAlignment = reader.sleb(),
            let returnAddress = version == 1 ? reader.byte().map(UInt64.init) : reader.uleb(),
            returnAddress < UInt64(machine.registers.count)
        else { return nil }
        var common = CallFrameCommon(
            codeAlignment: codeAlignment, dataAlignment: dataAlignment,
            returnAddress: Int(returnAddress), encoding: pointer,
            instructions: reader.offset..<frame.content.upperBound)
        if augmentation.isEmpty { return common }
        // Without its length, augmentation data that we do not know cannot be skipped.
        guard augmentation.first == UInt8(ascii: "z"), let data = reader.block() else { return nil }
        common.hasAugmentationData = true
        common.instructions = reader.offset..<frame.content.upperBound
        var dataReader = CallFrameReader(bytes, data)
        for letter in augmentation.dropFirst() {
            switch letter {
            case UInt8(ascii: "S"): common.isSignalFrame = true
            case UInt8(ascii: "B"): break
            case UInt8(ascii: "R"):
                guard let encoding = dataReader.byte() else { return nil }
                common.encoding.encoding = encoding
            case UInt8(ascii: "L"): guard dataReader.byte() != nil else { return nil }
            case UInt8(ascii: "P"):
                guard let encoding = dataReader.byte() else { return nil }
                var personality = pointer
                personality.encoding = encoding & 0x7F
                guard personality.readLength(&dataReader) != nil else { return nil }
            // What follows a letter that we do not know is not ours to read.
            default: return common
            }
        }
        return common
    }
}

extension ELFFile {
    /// How registers are numbered; nil for machines that are not x86.
    var callFrameMachine: CallFrameMachine? {
        switch Int32(machine) {
        case EM_X86_64: .amd64
        case EM_386: .i386
        default: nil
        }
    }

    /// The address and the bytes of a section, unpacked where it is compressed; nil where there is
    /// none, or none that can be read.
    func contents(ofSection wanted: String) -> (address: UInt64, bytes: [UInt8])? {
        unsafe withHandle { elf in
            var names = 0
            // SAFETY: the handle is open during the call; sections, strings and data belong to
            // libelf, which checks indices and offsets.
            guard unsafe elf_getshdrstrndx(elf, &names) == 0 else { return nil }
            var found: (address: UInt64, bytes: [UInt8])?
            unsafe forEachSection { section, header in
                guard header.sh_type != UInt32(SHT_NOBITS),
                    let text = unsafe elf_strptr(elf, names, Int(header.sh_name)),
                    unsafe String(cString: text) == wanted
                else { return true }
                found = unsafe Self.contents(section, header)
                return false
            }
            return found
        }
    }

    /// Sections that claim to unpack to more are not believed.
    private static let largestSection = 1 << 30

    private static func contents(
        _ section: OpaquePointer, _ header: GElf_Shdr
    ) -> (address: UInt64, bytes: [UInt8])? {
        if header.sh_flags & UInt64(SHF_COMPRESSED) != 0 {
            var compression = GElf_Chdr()
            // SAFETY: the caller's section is open; the header is a local that the call fills.
            guard unsafe gelf_getchdr(section, &compression) != nil,
                compression.ch_size <= UInt64(largestSection),
                unsafe elf_compress(section, 0, 0) >= 0
            else { return nil }
        }
        // SAFETY: as above; the data lives as long as the handle, and is copied at once.
        guard let data = unsafe elf_getdata(section, nil), unsafe data.pointee.d_size > 0,
            let start = unsafe data.pointee.d_buf
        else { return nil }
        let bytes = unsafe [UInt8](
            UnsafeRawBufferPointer(start: start, count: data.pointee.d_size))
        return (header.sh_addr, bytes)
    }
}
