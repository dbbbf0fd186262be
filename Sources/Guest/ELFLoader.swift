import Machine

extension LoadPlan {
    /// A 64-bit ELF executable, entered in 64-bit mode with the low 4 GiB mapped to themselves and
    /// every segment at its link address.
    mutating func planELF64() throws(GuestError) {
        let elf = try placeELF(is64Bit: true)
        let links = elf.segments.filter { segment in
            segment.virtual != segment.physical
                || segment.virtual + (segment.lengthInMemory - 1) >= PageTables.identityEnd
        }
        let tables = try linkTables(links)
        // What the link map hides of low memory cannot hold tables that are used by address.
        let hidden = links.compactMap { segment -> Range<UInt64>? in
            guard segment.virtual < PageTables.identityEnd else { return nil }
            return segment.virtual..<segment.virtual + segment.lengthInMemory
        }
        let entry = options.entry ?? elf.entry
        let isLinked = elf.segments.contains {
            entry >= $0.virtual && entry - $0.virtual < $0.lengthInMemory
        }
        let isPhysical =
            entry < PageTables.identityEnd && !hidden.contains { $0.contains(entry) }
            && elf.segments.contains { entry >= $0.physical && entry < $0.physicalEnd }
        guard isLinked || isPhysical else { throw outside(entry) }
        var area = area(for: elf, hidden)
        placeSystemTables(in: &area)
        let tablesAddress = try place(tables, in: &area)
        let descriptors = try placeDescriptors(in: &area, is64Bit: true)
        start(
            .long(entry: entry, descriptors: descriptors, tables: tablesAddress),
            commandLine: try placeCommandLine(in: &area))
    }

    /// A 32-bit ELF executable, entered in flat protected mode without paging.
    mutating func planELF32() throws(GuestError) {
        let elf = try placeELF(is64Bit: false)
        let entry = try physicalEntry(elf, options.entry ?? elf.entry)
        var area = area(for: elf, [])
        placeSystemTables(in: &area)
        let descriptors = try placeDescriptors(in: &area, is64Bit: false)
        start(
            .protected(entry: entry, descriptors: descriptors),
            commandLine: try placeCommandLine(in: &area))
    }

    /// Reads the image as ELF, of a given class where one is asked for, and puts its segments into
    /// RAM, moved where the options say.
    mutating func placeELF(is64Bit: Bool?) throws(GuestError) -> ELFImage {
        var elf = try ELFImage(image, name: name)
        if let is64Bit, elf.is64Bit != is64Bit {
            throw GuestError(
                .unsupported, name,
                "a \(elf.is64Bit ? 64 : 32)-bit ELF file, and --kind says \(kind.rawValue)")
        }
        if let load = options.loadAddress {
            let lowest = elf.segments.map(\.virtual).min() ?? 0
            for index in elf.segments.indices {
                let (address, overflow) = load.addingReportingOverflow(
                    elf.segments[index].virtual - lowest)
                guard !overflow else {
                    throw GuestError(
                        .badAddress, name,
                        "segment \(index) does not fit above --load \(hex(load))")
                }
                elf.segments[index].physical = address
            }
        }
        try ImageSegment.check(elf.segments, in: ram, name: name)
        for (index, segment) in elf.segments.enumerated() {
            add(image[segment.fileRange], at: segment.physical, "segment \(index)")
        }
        code = Self.code(of: elf)
        return elf
    }

    /// The area around an image's segments and what else cannot be used.
    func area(for elf: ELFImage, _ hidden: [Range<UInt64>]) -> BootArea {
        let taken = elf.segments.map { $0.physical..<$0.physicalEnd }
        return BootArea(layout: ram, occupied: taken + hidden, name: name)
    }

    /// Where an entry is without paging: a link address is taken to where it was loaded.
    func physicalEntry(_ elf: ELFImage, _ entry: UInt64) throws(GuestError) -> UInt64 {
        for segment in elf.segments
        where entry >= segment.virtual && entry - segment.virtual < segment.lengthInMemory {
            return segment.physical + (entry - segment.virtual)
        }
        guard elf.segments.contains(where: { entry >= $0.physical && entry < $0.physicalEnd })
        else { throw outside(entry) }
        return entry
    }

    private func outside(_ entry: UInt64) -> GuestError {
        GuestError(.badAddress, name, "the entry \(hex(entry)) is in no loaded segment")
    }

    /// The identity map with the link addresses laid over it.
    private func linkTables(_ links: [ImageSegment]) throws(GuestError) -> PageTables {
        for segment in links {
            let last = segment.virtual + (segment.lengthInMemory - 1)
            let half = segment.virtual >> 47
            guard half == last >> 47, half == 0 || half == 0x1FFFF else {
                throw GuestError(
                    .badAddress, name,
                    "a segment is linked at \(hex(segment.virtual)), which is not an address "
                        + "(47 bits, either half)")
            }
            guard segment.virtual % 4096 == segment.physical % 4096 else {
                throw GuestError(
                    .badAddress, name,
                    "a segment is linked at \(hex(segment.virtual)) and loaded at "
                        + "\(hex(segment.physical)): pages cannot map that; align both alike")
            }
        }
        // One distance for all allows 2 MiB pages, which map a little more than the segments:
        // what a higher-half kernel expects around itself. Below 4 GiB that would hide RAM.
        let distances = links.map { $0.virtual &- $0.physical }
        let isUniform =
            distances.allSatisfy { $0 == distances[0] && $0 % PageTables.largePage == 0 }
            && links.allSatisfy { $0.virtual >= PageTables.identityEnd }
        do throws(PageTables.Failure) {
            var tables = try PageTables()
            for segment in links {
                try tables.map(
                    virtual: segment.virtual, physical: segment.physical,
                    length: segment.lengthInMemory, isLarge: isUniform)
            }
            return tables
        } catch { throw self.error(error) }
    }

    /// Where an ELF file's code was loaded: by its executable sections, else by its segments.
    private static func code(of elf: ELFImage) -> [CodeRange] {
        let sections = elf.codeSections.compactMap { section -> CodeRange? in
            for segment in elf.segments
            where segment.fileRange.contains(section.fileRange.lowerBound)
                && section.fileRange.upperBound <= segment.fileRange.upperBound
            {
                let offset = UInt64(section.fileRange.lowerBound - segment.fileRange.lowerBound)
                return CodeRange(
                    physical: GuestPhysicalAddress(segment.physical + offset),
                    virtual: GuestVirtualAddress(segment.virtual + offset),
                    fileRange: section.fileRange, name: section.name, isCertain: true)
            }
            return nil
        }
        guard sections.isEmpty else { return sections }
        return elf.segments.enumerated().compactMap { index, segment in
            guard segment.isExecutable, !segment.fileRange.isEmpty else { return nil }
            return CodeRange(
                physical: GuestPhysicalAddress(segment.physical),
                virtual: GuestVirtualAddress(segment.virtual), fileRange: segment.fileRange,
                name: "segment \(index)", isCertain: false)
        }
    }
}
