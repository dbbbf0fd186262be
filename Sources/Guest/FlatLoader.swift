import Machine

extension LoadPlan {
    /// Where flat real-mode images go unless told: above the interrupt table and BIOS data.
    static let realModeLoadAddress: UInt64 = 0x1000
    /// Where flat 64-bit images go unless told.
    static let longModeLoadAddress: UInt64 = 0x10_0000

    /// A flat binary, entered in real mode at its first byte unless told.
    mutating func planFlatReal() throws(GuestError) {
        let load = options.loadAddress ?? Self.realModeLoadAddress
        let entry = try placeFlat(at: load)
        guard entry < 0x10_0000 else {
            throw GuestError(
                .badAddress, name,
                "the entry \(hex(entry)) is beyond the 1 MiB that real mode reaches")
        }
        var area = flatArea(at: load)
        placeSystemTables(in: &area)
        start(.real(entry: entry), commandLine: try placeCommandLine(in: &area))
    }

    /// A flat binary, entered in 64-bit mode at its first byte unless told.
    mutating func planFlatLong() throws(GuestError) {
        let load = options.loadAddress ?? Self.longModeLoadAddress
        let entry = try placeFlat(at: load)
        guard entry < PageTables.identityEnd else {
            throw GuestError(
                .badAddress, name,
                "the entry \(hex(entry)) is beyond the 4 GiB that are mapped")
        }
        var area = flatArea(at: load)
        placeSystemTables(in: &area)
        let tables: PageTables
        do { tables = try PageTables() } catch { throw self.error(error) }
        let tablesAddress = try place(tables, in: &area)
        let descriptors = try placeDescriptors(in: &area, is64Bit: true)
        start(
            .long(entry: entry, descriptors: descriptors, tables: tablesAddress),
            commandLine: try placeCommandLine(in: &area))
    }

    /// Puts the image at `load` and gives the entry, which lies in it.
    private mutating func placeFlat(at load: UInt64) throws(GuestError) -> UInt64 {
        let length = UInt64(image.count)
        guard ram.contains(load, length) else {
            throw GuestError(
                .badAddress, name,
                "a flat image of \(size(length)) at \(hex(load)) is not in \(ram.name); "
                    + "give more RAM, another --load, or the image's --kind")
        }
        let entry = options.entry ?? load
        guard entry >= load, entry - load < length else {
            throw GuestError(
                .badAddress, name,
                "the entry \(hex(entry)) is outside of the image (\(hex(load)) to "
                    + "\(hex(load + length - 1)))")
        }
        add(image[...], at: load, "image")
        code = [
            CodeRange(
                physical: GuestPhysicalAddress(load), virtual: GuestVirtualAddress(load),
                fileRange: 0..<image.count, name: "image", isCertain: false)
        ]
        return entry
    }

    private func flatArea(at load: UInt64) -> BootArea {
        BootArea(layout: ram, occupied: [load..<load + UInt64(image.count)], name: name)
    }
}
