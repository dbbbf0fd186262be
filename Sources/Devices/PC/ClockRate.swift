/// The rate of a device's clock, as a fraction of ticks per nanosecond, and both conversions.
///
/// Exact at every distance: a tick's time and number never drift, however long a machine runs.
struct ClockRate {
    /// Ticks in ``nanoseconds``.
    let ticks: UInt64
    /// How long ``ticks`` last; more than ``ticks``.
    let nanoseconds: UInt64

    /// The 8254's input, 105/88 MHz: the PC's 14.318 MHz crystal divided by 12.
    static let intervalTimer = ClockRate(ticks: 105, nanoseconds: 88_000)
    /// The ACPI timer, 315/88 MHz: the same crystal divided by 4.
    static let powerManagementTimer = ClockRate(ticks: 315, nanoseconds: 88_000)
    /// A watch crystal, 32,768 Hz.
    static let watchCrystal = ClockRate(ticks: 64, nanoseconds: 1_953_125)

    /// How many whole ticks have passed at a time.
    func ticks(at time: UInt64) -> UInt64 {
        let product = time.multipliedFullWidth(by: ticks)
        // For the first years, as good as always, the product is one word.
        if product.high == 0 { return product.low / nanoseconds }
        // The high word is below `ticks` and so below the divisor: the quotient fits.
        return nanoseconds.dividingFullWidth((product.high, product.low)).quotient
    }

    /// The first time at which `count` whole ticks have passed; the last time there is where that
    /// is beyond all times.
    func time(of count: UInt64) -> UInt64 {
        let product = count.multipliedFullWidth(by: nanoseconds)
        guard product.high < ticks else { return .max }
        let (quotient, remainder) = ticks.dividingFullWidth((product.high, product.low))
        return remainder == 0 ? quotient : quotient &+ (quotient == .max ? 0 : 1)
    }
}
