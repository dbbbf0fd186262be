/// What a machine hands to its firmware by fw_cfg beside what it says of itself: files, a Linux
/// kernel to boot, and what to boot from (QEMU, docs/specs/fw_cfg.rst).
///
/// It is input to the guest as the image is, and kept in the trace with it.
public struct FirmwareInputs: Equatable, Sendable {
    /// A file of fw_cfg.
    public struct File: Equatable, Sendable {
        /// Its name there: `opt/org.example/config`.
        public var name: String
        /// Its content.
        public var file: GuestFile

        /// Makes a file.
        public init(name: String, file: GuestFile) {
            self.name = name
            self.file = file
        }
    }

    /// A bzImage that firmware boots; the load's initial RAM disk and command line go with it.
    public var kernel: GuestFile?
    /// Open Firmware paths of what to boot from, first the first.
    public var bootOrder: [String]
    /// Files by names of their own.
    public var files: [File]

    /// Makes inputs; the defaults are none.
    public init(kernel: GuestFile? = nil, bootOrder: [String] = [], files: [File] = []) {
        self.kernel = kernel
        self.bootOrder = bootOrder
        self.files = files
    }

    /// The longest name, in bytes (the directory's field of 56 holds a NUL too).
    public static let maximumNameLength = 55
    /// The most files: a trace keeps 64 images.
    public static let maximumFileCount = 32
    /// Names of files that the machine makes itself.
    private static let reservedNames = ["etc/e820", "bootorder"]

    /// Throws where these inputs are none that fw_cfg can have.
    func check() throws(GuestError) {
        guard files.count <= Self.maximumFileCount else {
            throw GuestError(
                .badOption, files[Self.maximumFileCount].name,
                "fw_cfg takes \(Self.maximumFileCount) files at most")
        }
        for (index, file) in files.enumerated() {
            func bad(_ message: String) -> GuestError {
                GuestError(.badOption, "fw_cfg file '\(file.name)'", message)
            }
            guard (1...Self.maximumNameLength).contains(file.name.utf8.count),
                !file.name.utf8.contains(0)
            else { throw bad("a name has 1 to \(Self.maximumNameLength) bytes and no NUL") }
            guard !Self.reservedNames.contains(file.name) else {
                throw bad("the machine makes that file itself; take another name")
            }
            guard !files[..<index].contains(where: { $0.name == file.name }) else {
                throw bad("given twice; each name once")
            }
        }
        for path in bootOrder where path.isEmpty || path.utf8.contains(where: { $0 < 0x20 }) {
            throw GuestError(
                .badOption, "boot order '\(path)'",
                "a path is not empty and has no control characters")
        }
    }

    // MARK: In a trace

    /// The kinds of the records of a kernel and of a file.
    private static let kernelKind = "fw_cfg-kernel"
    private static let fileKind = "fw_cfg-file"
    private static let nameKey = "name"
    /// The image's property, one for each path.
    private static let bootOrderKey = "boot-order"

    /// What the image's record says of them.
    var properties: [GuestImageRecord.Property] {
        bootOrder.map { .init(key: Self.bootOrderKey, value: $0) }
    }

    /// The records that hold the files.
    var records: [GuestImageRecord] {
        (kernel.map { [record($0, Self.kernelKind, [])] } ?? [])
            + files.map {
                record($0.file, Self.fileKind, [.init(key: Self.nameKey, value: $0.name)])
            }
    }

    private func record(
        _ file: GuestFile, _ kind: String, _ properties: [GuestImageRecord.Property]
    ) -> GuestImageRecord {
        GuestImageRecord(name: file.name, kind: kind, bytes: file.bytes, properties: properties)
    }

    /// Takes what the image's record says.
    mutating func take(image: GuestImageRecord) {
        bootOrder = image.properties.filter { $0.key == Self.bootOrderKey }.map(\.value)
    }

    /// Takes a record of a file; false: it is none of these.
    mutating func take(_ record: GuestImageRecord) -> Bool {
        let file = GuestFile(name: record.name, bytes: record.bytes)
        switch record.kind {
        case Self.kernelKind where kernel == nil: kernel = file
        case Self.fileKind: files.append(File(name: record[Self.nameKey] ?? "", file: file))
        default: return false
        }
        return true
    }
}
