/// A file of a load, as a trace keeps it: with the options, enough to load the guest again.
public struct GuestImageRecord: Equatable, Sendable {
    /// One property of a record.
    public struct Property: Equatable, Sendable {
        /// Its name.
        public var key: String
        /// Its value as text; numbers are hexadecimal with `0x` or decimal.
        public var value: String

        /// Makes a property.
        public init(key: String, value: String) {
            self.key = key
            self.value = value
        }
    }

    /// The kind of modules' records; an image's is a ``GuestKind``'s raw value.
    public static let moduleKind = "module"
    /// The kind of an initial RAM disk's record.
    public static let initrdKind = "initrd"
    /// The version of the rules by which images are loaded; a record of another is refused.
    public static let loaderVersion = 1

    /// The file's name as it was given.
    public var name: String
    /// What the file is: a ``GuestKind``'s raw value, ``moduleKind``, ``initrdKind``, or one of
    /// ``FirmwareInputs``.
    public var kind: String
    /// The file's bytes as read.
    public var bytes: [UInt8]
    /// How it was loaded, in a fixed order. Of an image: `loader`, `ram`, then `load`, `entry`,
    /// `tables`, `command-line`, `boot-order` (once for each path) where given. Of a module: `command-line` where given.
    public var properties: [Property]

    /// Makes a record, as read from a trace.
    public init(name: String, kind: String, bytes: [UInt8], properties: [Property]) {
        self.name = name
        self.kind = kind
        self.bytes = bytes
        self.properties = properties
    }

    /// The value of a property, nil where it is not there.
    public subscript(key: String) -> String? { properties.first { $0.key == key }?.value }

    static func records(
        _ file: GuestFile, _ options: LoadOptions, _ kind: GuestKind, _ ram: RAMLayout
    ) -> [GuestImageRecord] {
        var properties = [
            Property(key: "loader", value: "\(loaderVersion)"),
            Property(key: "ram", value: hex(ram.lengthInBytes)),
        ]
        if let load = options.loadAddress {
            properties.append(Property(key: "load", value: hex(load)))
        }
        if let entry = options.entry {
            properties.append(Property(key: "entry", value: hex(entry)))
        }
        if let tables = options.tables, kind != .firmware {
            properties.append(Property(key: "tables", value: tables.rawValue))
        }
        func line(_ text: String) -> [Property] {
            text.isEmpty ? [] : [Property(key: "command-line", value: text)]
        }
        let image = GuestImageRecord(
            name: file.name, kind: kind.rawValue, bytes: file.bytes,
            properties: properties + line(options.commandLine) + options.firmware.properties)
        let initrd = options.initrd.map {
            GuestImageRecord(name: $0.name, kind: initrdKind, bytes: $0.bytes, properties: [])
        }
        return [image] + (initrd.map { [$0] } ?? [])
            + options.modules.map {
                GuestImageRecord(
                    name: $0.file.name, kind: moduleKind, bytes: $0.file.bytes,
                    properties: line($0.commandLine))
            } + options.firmware.records
    }

    /// The tables that were made.
    func tables() throws(GuestError) -> SystemTables? {
        guard let text = self["tables"] else { return nil }
        guard let tables = SystemTables(rawValue: text) else {
            throw GuestError(
                .badRecord, name, "its record names the unknown system tables \(text)")
        }
        return tables
    }

    /// A numeric property; nil where it is not there.
    func number(_ key: String) throws(GuestError) -> UInt64? {
        guard let text = self[key] else { return nil }
        let number = text.hasPrefix("0x") ? UInt64(text.dropFirst(2), radix: 16) : UInt64(text)
        guard let number else {
            throw GuestError(.badRecord, name, "property \(key) of its record is not a number")
        }
        return number
    }
}

extension LoadPlan {
    /// Plans the load that ``records`` of another plan describe; the plans are equal.
    ///
    /// Throws ``GuestError`` of kind badRecord where the records are not those of a load, else as
    /// the load itself does.
    public init(records: [GuestImageRecord]) throws(GuestError) {
        guard let image = records.first else {
            throw GuestError(.badRecord, "guest image", "the trace holds none")
        }
        guard let kind = GuestKind(rawValue: image.kind) else {
            throw GuestError(
                .badRecord, image.name, "its record is of the unknown kind \(image.kind)")
        }
        let version = try image.number("loader")
        guard version == UInt64(GuestImageRecord.loaderVersion) else {
            throw GuestError(
                .badRecord, image.name,
                "loaded by rules of version \(version.map(String.init) ?? "none"), this vmtape "
                    + "has version \(GuestImageRecord.loaderVersion)")
        }
        guard let ram = try image.number("ram") else {
            throw GuestError(.badRecord, image.name, "its record does not say the RAM size")
        }
        var options = LoadOptions(
            kind: kind, loadAddress: try image.number("load"), entry: try image.number("entry"),
            commandLine: image["command-line"] ?? "")
        options.tables = try image.tables()
        options.firmware.take(image: image)
        for module in records.dropFirst() {
            if module.kind == GuestImageRecord.initrdKind, options.initrd == nil {
                options.initrd = GuestFile(name: module.name, bytes: module.bytes)
                continue
            }
            if options.firmware.take(module) { continue }
            guard module.kind == GuestImageRecord.moduleKind else {
                throw GuestError(
                    .badRecord, module.name, "a second image, where only modules can follow")
            }
            options.modules.append(
                GuestModule(
                    file: GuestFile(name: module.name, bytes: module.bytes),
                    commandLine: module["command-line"] ?? ""))
        }
        try self.init(
            image: GuestFile(name: image.name, bytes: image.bytes), options: options,
            ram: RAMLayout(lengthInBytes: ram))
    }
}
