import Machine

extension LoadPlan {
    /// A Linux kernel by the 64-bit boot protocol (Linux, Documentation/arch/x86/boot.rst): 64-bit
    /// mode, the low 4 GiB mapped to themselves, RSI the address of the boot parameters.
    mutating func planLinux() throws(GuestError) {
        let isELF = image.starts(with: [0x7F, 0x45, 0x4C, 0x46])
        var parameters = LinuxBootParameters(ram: ram, commandLine: options.commandLine)
        let entry: UInt64
        let occupied: [Range<UInt64>]
        if isELF {
            let elf = try placeELF(is64Bit: true)
            entry = try physicalEntry(elf, elf.entry)
            occupied = elf.segments.map { $0.physical..<$0.physicalEnd }
        } else {
            let header = try LinuxHeader(image, name: name)
            entry = header.address &+ LinuxHeader.longEntry
            occupied = [try placeKernel(header)]
            parameters.header = header
        }
        let longest = parameters.header?.commandLineSize ?? LinuxBootParameters.longestCommandLine
        guard options.commandLine.utf8.count <= longest else {
            throw GuestError(
                .badOption, name,
                "the kernel takes a command line of \(longest) bytes, this one has "
                    + "\(options.commandLine.utf8.count)")
        }
        var area = BootArea(layout: ram, occupied: occupied, name: name)
        placeSystemTables(in: &area)
        if let initrd = options.initrd {
            parameters.initrd = try place(
                initrd, below: parameters.header?.highestInitrd,
                from: occupied.map(\.upperBound).max() ?? 0, in: &area)
        }
        let address = try area.takeHigh(parameters.length, for: "boot parameters")
        add(parameters.bytes(at: address)[...], at: address, "boot parameters")
        let tables: PageTables
        do throws(PageTables.Failure) {
            tables = try PageTables()
        } catch { throw self.error(error) }
        let tablesAddress = try place(tables, in: &area)
        let descriptors = try placeDescriptors(in: &area, is64Bit: true)
        start(.long(entry: entry, descriptors: descriptors, tables: tablesAddress))
        registers[.rsi] = address
    }

    /// Puts the protected-mode part of a bzImage where it wants to be, and gives what it takes.
    private mutating func placeKernel(_ header: LinuxHeader) throws(GuestError) -> Range<UInt64> {
        let bytes = image[header.kernelStart...]
        let length = max(header.initSize, UInt64(bytes.count))
        guard header.address < ram.lowLength, length <= ram.lowLength - header.address else {
            throw GuestError(
                .tooBig, name,
                "the kernel takes \(size(length)) at \(hex(header.address)), which is not in "
                    + "\(ram.name); give more RAM")
        }
        add(bytes, at: header.address, "kernel")
        // It unpacks another kernel from there: what is code shows when it is executed.
        code = [
            CodeRange(
                physical: GuestPhysicalAddress(header.address),
                virtual: GuestVirtualAddress(header.address),
                fileRange: header.kernelStart..<image.count, name: "kernel", isCertain: false)
        ]
        return header.address..<header.address + length
    }

    /// Puts the initial RAM disk behind the kernel.
    private mutating func place(
        _ initrd: GuestFile, below highest: UInt64?, from start: UInt64, in area: inout BootArea
    ) throws(GuestError) -> Range<UInt64> {
        guard !initrd.bytes.isEmpty else {
            throw GuestError(.empty, initrd.name, "the initrd is empty")
        }
        let length = UInt64(initrd.bytes.count)
        let address = try area.takeLow(length, from: start, for: "initrd \(initrd.name)")
        if let highest, highest > 0, address + (length - 1) > highest {
            throw GuestError(
                .tooBig, initrd.name,
                "ends at \(hex(address + (length - 1))), the kernel reaches \(hex(highest))")
        }
        add(initrd.bytes[...], at: address, "initrd \(initrd.name)")
        return address..<address + length
    }
}
