/// How an interrupt message is to be delivered: the field of three bits that ICR, local vector
/// table and redirection table have in common (Intel SDM vol. 3, figure 12-8 and 12-12).
enum APICDelivery: UInt8, Sendable {
    case fixed
    case lowestPriority
    case systemManagement
    case reserved
    case nonMaskable
    case initialise
    case startUp
    /// The vector is the 8259 pair's.
    case external

    /// The mode in bits 8–10 of a register.
    init(bits value: UInt32) {
        // Three bits have eight values, and each has a case.
        self = Self(rawValue: UInt8(value >> 8 & 7)) ?? .reserved
    }
}

/// Whom an interrupt message is for.
struct APICDestination: Equatable, Sendable {
    /// An APIC's id, or a set of logical ones.
    var value: UInt8
    /// Which of the two.
    var isLogical: Bool
}
