/// What a trace keeps of a configuration, so that the same devices can be made again: keys and
/// values as text, of what the guest can see.
extension DeviceSet.Configuration {
    private enum Key {
        static let machine = "machine"
        static let memoryBase = "serial.memory"
        static let startDate = "pc.start-date"
        static let timerBits = "pc.timer-bits"
        static let firmwareDMA = "pc.firmware-dma"
        static let keys = "pc.keys"
        static let firstKey = "pc.first-key-ns"
        static let keyInterval = "pc.key-interval-ns"
        static let files = "pc.firmware-files"
    }

    /// The properties of this configuration. RAM is the load's, and not in them.
    public var properties: [(key: String, value: String)] {
        var list = [(Key.machine, machine.rawValue)]
        if let serialMemoryBase { list.append((Key.memoryBase, "\(serialMemoryBase)")) }
        guard machine != .bare else { return list }
        list.append((Key.startDate, "\(pc.startDate)"))
        list.append((Key.timerBits, pc.has32BitTimer ? "32" : "24"))
        list.append((Key.firmwareDMA, pc.offersFirmwareDMA ? "on" : "off"))
        if !pc.keys.isEmpty {
            list.append((Key.keys, String(decoding: pc.keys, as: UTF8.self)))
            list.append((Key.firstKey, "\(pc.firstKeyNanoseconds)"))
            list.append((Key.keyInterval, "\(pc.keyIntervalNanoseconds)"))
        }
        // Their bytes are the load's business.
        if pc.hasFirmwareInputs { list.append((Key.files, "yes")) }
        return list
    }

    /// The configuration that a trace's properties tell of.
    ///
    /// - Parameters:
    ///   - load: what is no property: RAM, and what firmware is handed.
    ///   - value: the property with a key; nil: there is none.
    /// - Throws: ``DeviceError/Kind/unknownMachine`` where the devices cannot be made from it.
    public init(
        of load: PCConfiguration, property value: (String) -> String?
    ) throws(DeviceError) {
        guard let name = value(Key.machine) else {
            throw DeviceError(
                .unknownMachine, "trace",
                "does not say which devices the machine had: record it again with this vmtape")
        }
        guard let machine = MachineKind(rawValue: name) else {
            throw DeviceError(
                .unknownMachine, "trace", "machine \(name) is not known: use a newer vmtape")
        }
        guard value(Key.files) == nil || load.hasFirmwareInputs else {
            throw DeviceError(
                .unknownMachine, "trace",
                "the firmware's files (kernel, boot order) are not in it, so that the devices "
                    + "cannot be made again")
        }
        func number(_ key: String) -> UInt64? { value(key).flatMap { UInt64($0) } }
        var pc = load
        pc.startDate = number(Key.startDate) ?? pc.startDate
        pc.has32BitTimer = value(Key.timerBits) == "32"
        pc.offersFirmwareDMA = value(Key.firmwareDMA) == "on"
        pc.keys = Array((value(Key.keys) ?? "").utf8)
        pc.firstKeyNanoseconds = number(Key.firstKey) ?? pc.firstKeyNanoseconds
        pc.keyIntervalNanoseconds = number(Key.keyInterval) ?? pc.keyIntervalNanoseconds
        self.init(serialMemoryBase: number(Key.memoryBase), machine: machine, pc: pc)
    }
}
