import Machine

@testable import Guest

/// An ELF file made for a test, with every field within reach.
struct SampleELF {
    struct Segment {
        var virtual: UInt64
        var physical: UInt64
        var bytes: [UInt8]
        /// nil: as many as there are bytes.
        var lengthInMemory: UInt64?
        var lengthInFile: UInt64?
        var type: UInt32 = 1
        var flags: UInt32 = 5
    }

    var is64Bit = true
    var type: UInt16 = 2
    var machine: UInt16?
    var dataEncoding: UInt8 = 1
    var entry: UInt64
    var segments: [Segment]
    /// Bytes between the program headers and the first segment.
    var gap: [UInt8] = []
    /// A section named `.text` over the first segment's bytes.
    var hasSections = false

    init(is64Bit: Bool = true, entry: UInt64, segments: [Segment]) {
        self.is64Bit = is64Bit
        self.entry = entry
        self.segments = segments
    }

    /// One segment of code with link address = load address.
    init(is64Bit: Bool = true, at address: UInt64, bytes: [UInt8] = [0xF4, 0xEB, 0xFD]) {
        self.init(
            is64Bit: is64Bit, entry: address,
            segments: [Segment(virtual: address, physical: address, bytes: bytes)])
    }

    var bytes: [UInt8] {
        let headerLength = is64Bit ? 64 : 52
        let programLength = is64Bit ? 56 : 32
        let sectionLength = is64Bit ? 64 : 40
        let names: [UInt8] = [0] + Array(".text".utf8) + [0] + Array(".shstrtab".utf8) + [0]
        let dataAt = headerLength + segments.count * programLength + gap.count
        let namesAt = dataAt + segments.reduce(0) { $0 + $1.bytes.count }
        let sectionsAt = namesAt + names.count
        var out: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, is64Bit ? 2 : 1, dataEncoding, 1, 0]
        out += [UInt8](repeating: 0, count: 8)
        func address(_ number: UInt64) {
            if is64Bit {
                out.append(littleEndian: number)
            } else {
                out.append(littleEndian: UInt32(truncatingIfNeeded: number))
            }
        }
        out.append(littleEndian: type)
        out.append(littleEndian: machine ?? (is64Bit ? 62 : 3))
        out.append(littleEndian: UInt32(1))
        address(entry)
        address(UInt64(headerLength))
        address(hasSections ? UInt64(sectionsAt) : 0)
        out.append(littleEndian: UInt32(0))
        for half in [headerLength, programLength, segments.count, sectionLength] {
            out.append(littleEndian: UInt16(half))
        }
        out.append(littleEndian: UInt16(hasSections ? 3 : 0))
        out.append(littleEndian: UInt16(hasSections ? 2 : 0))
        var offset = UInt64(dataAt)
        for segment in segments {
            let inFile = segment.lengthInFile ?? UInt64(segment.bytes.count)
            out.append(littleEndian: segment.type)
            if is64Bit { out.append(littleEndian: segment.flags) }
            address(offset)
            address(segment.virtual)
            address(segment.physical)
            address(inFile)
            address(segment.lengthInMemory ?? inFile)
            if !is64Bit { out.append(littleEndian: segment.flags) }
            address(1)
            offset += UInt64(segment.bytes.count)
        }
        out += gap
        for segment in segments { out += segment.bytes }
        guard hasSections else { return out }
        out += names
        func section(_ name: UInt32, _ type: UInt32, _ flags: UInt64, _ at: Int, _ length: Int) {
            out.append(littleEndian: name)
            out.append(littleEndian: type)
            address(flags)
            address(segments[0].virtual)
            address(UInt64(at))
            address(UInt64(length))
            out += [UInt8](repeating: 0, count: 8)
            address(1)
            address(0)
        }
        section(0, 0, 0, 0, 0)
        section(1, 1, 6, dataAt, segments[0].bytes.count)
        section(7, 3, 0, namesAt, names.count)
        return out
    }
}

/// A multiboot header.
func multibootHeader(flags: UInt32, addresses: [UInt32] = []) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(littleEndian: UInt32(0x1BAD_B002))
    bytes.append(littleEndian: flags)
    bytes.append(littleEndian: 0 &- (0x1BAD_B002 &+ flags))
    for address in addresses { bytes.append(littleEndian: address) }
    return bytes
}

/// A gzip member that holds its bytes as they are: RFC 1952 around stored blocks of RFC 1951.
func gzip(_ bytes: [UInt8], name: String? = nil) -> [UInt8] {
    var out: [UInt8] = [0x1F, 0x8B, 8, name == nil ? 0 : 8, 0, 0, 0, 0, 0, 255]
    if let name { out += Array(name.utf8) + [0] }
    var rest = bytes[...]
    repeat {
        let block = rest.prefix(0xFFFF)
        rest = rest.dropFirst(block.count)
        out.append(rest.isEmpty ? 1 : 0)
        out.append(littleEndian: UInt16(block.count))
        out.append(littleEndian: ~UInt16(block.count))
        out += block
    } while !rest.isEmpty
    var crc = UInt32.max
    for byte in bytes {
        crc ^= UInt32(byte)
        for _ in 0..<8 { crc = crc & 1 != 0 ? crc >> 1 ^ 0xEDB8_8320 : crc >> 1 }
    }
    out.append(littleEndian: ~crc)
    out.append(littleEndian: UInt32(truncatingIfNeeded: bytes.count))
    return out
}

/// A plan for an image called `image`.
func plan(
    _ bytes: [UInt8], _ options: LoadOptions = LoadOptions(), ram: UInt64 = 16 << 20
) throws(GuestError) -> LoadPlan {
    try LoadPlan(
        image: GuestFile(name: "image", bytes: bytes), options: options,
        ram: RAMLayout(lengthInBytes: ram))
}

/// The error of a load that must fail; nil where it does not.
func failure(
    _ bytes: [UInt8], _ options: LoadOptions = LoadOptions(), ram: UInt64 = 16 << 20
) -> GuestError? {
    do throws(GuestError) {
        _ = try plan(bytes, options, ram: ram)
        return nil
    } catch { return error }
}

extension LoadPlan {
    /// The bytes of the write at an address, with what follows in the same write.
    func bytes(at address: UInt64, _ count: Int) -> [UInt8]? {
        for write in writes {
            let start = write.address.rawValue
            guard address >= start, address < start + UInt64(write.bytes.count) else { continue }
            let rest = write.bytes.dropFirst(Int(address - start))
            return rest.count >= count ? Array(rest.prefix(count)) : nil
        }
        return nil
    }

    /// A little-endian number in what the plan writes.
    func number<N: FixedWidthInteger>(_ type: N.Type, at address: UInt64) -> N? {
        bytes(at: address, N.bitWidth / 8)?.reversed().reduce(0) { $0 << 8 | N($1) }
    }

    /// The NUL-terminated string in what the plan writes.
    func string(at address: UInt64) -> String? {
        var bytes: [UInt8] = []
        var at = address
        while let byte = number(UInt8.self, at: at) {
            if byte == 0 { return String(decoding: bytes, as: UTF8.self) }
            bytes.append(byte)
            at += 1
        }
        return nil
    }

    /// Where the page tables take a virtual address; nil where nothing is mapped.
    func translate(_ virtual: UInt64) -> UInt64? {
        var table = systemRegisters[.cr3]
        for level in stride(from: UInt64(3), through: 0, by: -1) {
            let shift = 12 + 9 * level
            let index = virtual >> shift & 0x1FF
            guard let entry = number(UInt64.self, at: table + index * 8), entry & 1 != 0 else {
                return nil
            }
            let base = entry & 0x000F_FFFF_FFFF_F000
            if level == 0 || entry & 0x80 != 0 {
                return base + virtual & (1 << shift - 1)
            }
            table = base
        }
        return nil
    }
}
