import Machine

extension LoadPlan {
    /// The most of a firmware image that is also visible below 1 MiB, in bytes.
    static let shadowLength = 128 << 10

    /// A firmware image: ROM that ends at 4 GiB, its last 128 KiB also in RAM below 1 MiB, as
    /// chipsets have it. Entered as after RESET.
    mutating func planFirmware() throws(GuestError) {
        guard image.count % (64 << 10) == 0, image.count <= 16 << 20 else {
            throw GuestError(
                .unsupported, name,
                "a firmware image has a multiple of 64 KiB up to 16 MiB, not "
                    + size(UInt64(image.count)))
        }
        guard ram.contains(0, 1 << 20) else {
            throw GuestError(
                .tooBig, name, "firmware needs at least 1 MiB of RAM for its copy below 1 MiB")
        }
        let base = RAMLayout.holeEnd - UInt64(image.count)
        romLengthInBytes = UInt64(image.count)
        add(image[...], at: base, "firmware")
        let shadow = image.suffix(Self.shadowLength)
        add(shadow, at: (1 << 20) - UInt64(shadow.count), "firmware below 1 MiB")
        for (address, range) in [
            (base, 0..<image.count),
            ((1 << 20) - UInt64(shadow.count), shadow.startIndex..<shadow.endIndex),
        ] {
            code.append(
                CodeRange(
                    physical: GuestPhysicalAddress(address),
                    virtual: GuestVirtualAddress(address), fileRange: range, name: "firmware",
                    isCertain: false))
        }
        start(.reset())
    }
}
