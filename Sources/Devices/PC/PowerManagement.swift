internal import Machine

/// The ACPI registers of a PIIX4's power management function (Intel 82371AB data sheet, 7.2; ACPI
/// specification, 4.8.3): PM1 events and control, the PM timer, and latches for the rest of its
/// 64 ports; and the APM ports 0xB2 and 0xB3, by which firmware's tables turn ACPI on.
struct PowerManagement: Sendable {
    /// The registers, by offset; names as the specification has them.
    private enum Offset {
        static let status: UInt8 = 0  // PM1_STS, 2 bytes
        static let enable: UInt8 = 2  // PM1_EN, 2 bytes
        static let control: UInt8 = 4  // PM1_CNT, 2 bytes
        static let timer: UInt8 = 8  // PM_TMR, 4 bytes
    }

    /// How many ports it takes.
    static let portCount: UInt16 = 64
    /// TMROF, BM, GBL, PWRBTN, RTC: what is defined of PM1_STS; of PM1_EN, all but BM.
    private static let statusMask: UInt16 = 0x0531
    private static let enableMask: UInt16 = 0x0521
    private static let timerOverflow: UInt16 = 0x0001
    private static let sciEnable: UInt16 = 0x0001
    private static let sleepEnable: UInt16 = 0x2000

    private var status: UInt16 = 0
    private var enable: UInt16 = 0
    private var control: UInt16 = 0
    private var latches = [UInt8](repeating: 0, count: 64)
    private var command = InlineArray<2, UInt8>(repeating: 0)
    private var tick: UInt64 = 0
    private let timerBits: UInt64

    /// Makes the registers with a timer of 24 or 32 bits.
    init(has32BitTimer: Bool) { timerBits = has32BitTimer ? 32 : 24 }

    /// Moves on to a time. The timer's status is set whenever its highest bit changes.
    mutating func advance(to nanoseconds: UInt64) {
        let before = tick >> (timerBits - 1)
        tick = ClockRate.powerManagementTimer.ticks(at: nanoseconds)
        if tick >> (timerBits - 1) != before { status |= Self.timerOverflow }
    }

    /// The level of the system control interrupt.
    var line: Bool { control & Self.sciEnable != 0 && status & enable != 0 }

    /// When the line rises next by itself, in nanoseconds.
    var nextInterrupt: UInt64? {
        guard !line, control & Self.sciEnable != 0, enable & Self.timerOverflow != 0 else {
            return nil
        }
        let half = UInt64(1) << (timerBits - 1)
        return ClockRate.powerManagementTimer.time(of: (tick / half + 1) * half)
    }

    /// Reads a byte of the 64 ports.
    func read(_ offset: UInt8) -> UInt8 {
        let value: UInt32
        switch offset {
        case 0, 1: value = UInt32(status)
        case 2, 3: value = UInt32(enable)
        case 4, 5: value = UInt32(control)
        case 8...11:
            value = UInt32(truncatingIfNeeded: tick & (1 << timerBits - 1))
        default: return latches[Int(offset & 63)]
        }
        let shift = UInt32(offset & (offset < Offset.timer ? 1 : 3)) * 8
        return UInt8(truncatingIfNeeded: value >> shift)
    }

    /// Writes a byte of the 64 ports. True: the machine goes off (SLP_EN with the type of S5,
    /// which is 0 on a PIIX4). Other sleeping states are not entered.
    mutating func write(_ offset: UInt8, _ value: UInt8) -> Bool {
        let shift = UInt16(offset & 1) * 8
        let bits = UInt16(value) << shift
        let others = ~(UInt16(0xFF) << shift)
        switch offset {
        case 0, 1: status &= ~(bits & Self.statusMask)  // writing 1 clears
        case 2, 3: enable = enable & others | bits & Self.enableMask
        case 4, 5:
            let written = control & others | bits
            // SLP_EN starts a transition and reads as 0, as GBL_RLS (bit 2) does.
            control = written & 0x1C03
            return bits & Self.sleepEnable != 0 && written & 0x1C00 == 0
        case 8...11: break
        // GPSTS, GLBSTS, DEVSTS: writing 1 clears, and nothing here sets them.
        case 0x0C, 0x0D, 0x18, 0x19, 0x1C...0x1F: break
        default: latches[Int(offset & 63)] = value
        }
        return false
    }

    /// Reads the APM control (0) or status (1) port.
    func readCommand(_ offset: UInt8) -> UInt8 { command[Int(offset & 1)] }

    /// Writes the APM control (0) or status (1) port.
    mutating func writeCommand(_ offset: UInt8, _ value: UInt8) {
        command[Int(offset & 1)] = value
        guard offset & 1 == 0 else { return }
        // As QEMU's and Bochs' firmware tables name the commands.
        if value == PCLayout.acpiOn { control |= Self.sciEnable }
        if value == PCLayout.acpiOff { control &= ~Self.sciEnable }
    }
}
