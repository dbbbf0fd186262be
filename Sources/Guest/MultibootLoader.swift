import Machine

extension LoadPlan {
    /// A multiboot kernel (Multiboot Specification 0.6.96): flat protected mode without paging,
    /// EAX a magic number, EBX the address of the boot information.
    mutating func planMultiboot() throws(GuestError) {
        guard let header = MultibootHeader.find(in: image) else {
            throw GuestError(
                .malformed, name,
                "no multiboot header with a right checksum in its first "
                    + "\(MultibootHeader.searchLength) bytes")
        }
        guard header.unknownRequirements == 0 else {
            throw GuestError(
                .unsupported, name,
                "the multiboot header (offset \(hex(header.offset))) requires something unknown: "
                    + "flags \(hex(header.flags))")
        }
        if header.wantsVideoMode {
            notes.append("\(name): asks for a video mode; there is no screen")
        }
        let segments: [ImageSegment]
        let entry: UInt64
        if header.hasAddresses {
            let segment = try placeByHeader(header)
            segments = [segment]
            entry = options.entry ?? UInt64(header.entryAddress)
            guard entry >= segment.physical, entry < segment.physicalEnd else {
                throw GuestError(
                    .badAddress, name,
                    "the entry \(hex(entry)) is outside of what the multiboot header loads "
                        + "(\(hex(segment.physical)) to \(hex(segment.physicalEnd - 1)))")
            }
        } else {
            let elf = try placeELF(is64Bit: nil)
            segments = elf.segments
            entry = try physicalEntry(elf, options.entry ?? elf.entry)
        }
        for (index, segment) in segments.enumerated() where segment.physicalEnd > ram.lowLength {
            throw GuestError(
                .badAddress, name,
                "segment \(index) at \(hex(segment.physical)) is beyond the reach of 32 bits")
        }
        var area = BootArea(
            layout: ram, occupied: segments.map { $0.physical..<$0.physicalEnd }, name: name)
        placeSystemTables(in: &area)
        let imageEnd = segments.map(\.physicalEnd).max() ?? 0
        var information = MultibootInformation(ram: ram, commandLine: options.commandLine)
        for module in options.modules {
            guard !module.file.bytes.isEmpty else {
                throw GuestError(.empty, module.file.name, "the module is empty")
            }
            let length = UInt64(module.file.bytes.count)
            let address = try area.takeLow(
                length, from: imageEnd, for: "module \(module.file.name)")
            add(module.file.bytes[...], at: address, "module \(module.file.name)")
            information.modules.append(
                .init(range: address..<address + length, text: module.commandLine))
        }
        let address = try area.takeHigh(information.length, for: "boot information")
        add(information.bytes(at: address)[...], at: address, "boot information")
        let descriptors = try placeDescriptors(in: &area, is64Bit: false)
        start(.protected(entry: entry, descriptors: descriptors))
        registers[.rax] = UInt64(MultibootInformation.magic)
        registers[.rbx] = address
    }

    /// Puts an image where the address fields of its multiboot header say (3.1.3).
    private mutating func placeByHeader(
        _ header: MultibootHeader
    ) throws(GuestError) -> ImageSegment {
        func fail(_ message: String) -> GuestError {
            GuestError(
                .malformed, name,
                "the multiboot header (offset \(hex(header.offset))) \(message)")
        }
        let load = UInt64(header.loadAddress)
        guard header.headerAddress >= header.loadAddress,
            Int(header.headerAddress - header.loadAddress) <= header.offset
        else {
            throw fail(
                "says it is loaded at \(hex(header.headerAddress)) and the image from "
                    + "\(hex(load)), which is before the image's first byte")
        }
        let first = header.offset - Int(header.headerAddress - header.loadAddress)
        var end = load + UInt64(image.count - first)
        if header.loadEndAddress != 0 {
            guard header.loadEndAddress > header.loadAddress else {
                throw fail("ends (\(hex(header.loadEndAddress))) before it begins (\(hex(load)))")
            }
            guard UInt64(header.loadEndAddress) <= end else {
                throw GuestError(
                    .truncated, name,
                    "the multiboot header wants \(UInt64(header.loadEndAddress) - load) bytes "
                        + "from offset \(first) on, the image has \(image.count - first)")
            }
            end = UInt64(header.loadEndAddress)
        }
        var memoryEnd = end
        if header.bssEndAddress != 0 {
            guard UInt64(header.bssEndAddress) >= end else {
                throw fail("ends its bss (\(hex(header.bssEndAddress))) before its data")
            }
            memoryEnd = UInt64(header.bssEndAddress)
        }
        let segment = ImageSegment(
            fileRange: first..<first + Int(end - load), physical: load, virtual: load,
            lengthInMemory: memoryEnd - load, isExecutable: true)
        try ImageSegment.check([segment], in: ram, name: name)
        add(image[segment.fileRange], at: load, "segment 0")
        code = [
            CodeRange(
                physical: GuestPhysicalAddress(load), virtual: GuestVirtualAddress(load),
                fileRange: segment.fileRange, name: "segment 0", isCertain: false)
        ]
        return segment
    }
}
