/// A device as a trace's header lists it.
public struct DeviceDescription: Equatable, Sendable {
    /// The name of the local APIC: with it, CR8 is its task priority.
    public static let localAPIC = "local-apic"

    /// What it is: `16550a`, `debug-console`.
    public var name: String
    /// Its first port or address: `port 0x3f8`, `memory 0xd0000000`.
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
}
