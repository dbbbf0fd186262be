/// A device as a trace's header lists it.
public struct DeviceDescription: Equatable, Sendable {
    /// The name of the local APIC: with it, CR8 is its task priority.
    public static let localAPIC = "local-apic"

    /// What it is: `16550a`, `debug-console`.
    public var name: String
    /// Its ports or addresses: `port 0x20..0x21 0xa0..0xa1`,
    /// `memory 0xfec00000..0xfec00fff`.
    public var base: String
    /// The interrupt line, nil where it has none.
    public var irq: UInt8?
    /// What else was set, `key=value` separated by commas; empty where nothing was.
    public var options: String

    /// Makes a description.
    public init(name: String, base: String, irq: UInt8? = nil, options: String = "") {
        self.name = name
        self.base = base
        self.irq = irq
        self.options = options
    }
    /// So many ports or addresses, as ``base`` has them.
    static func range(_ first: UInt64, count: UInt64) -> String {
        let start = "0x" + String(first, radix: 16)
        return count > 1 ? start + "..0x" + String(first + count - 1, radix: 16) : start
    }
}
