// The columnar transposition of a block's rows (FORMAT.md, "Events"). `ColumnEncoder` takes rows
// apart, `ColumnDecoder` puts the identical rows together again.

/// The columns in file order; the raw value is the place in the directory.
enum Column {
    /// All registers of all vCPUs before the block's first event.
    static let baseline = 0
    /// First byte of each row.
    static let kinds = 1
    /// vCPU of the rows that spell it out.
    static let vCPUs = 2
    /// Distinct sites in order of first use, 24 bytes each.
    static let siteTable = 3
    /// Site number of each exit.
    static let sites = 4
    /// One byte an exit: which of the following it has.
    static let shapes = 5
    /// Register masks that differ from the one before at their site.
    static let masks = 6
    /// Register n: differences to the snapshot before. RIP's stays empty: the site tells it.
    static let firstRegister = 7
    /// Masks and differences of system words.
    static let system = 25
    /// MMIO addresses: differences to the one before at their site.
    static let addresses = 26
    /// Bytes the guest sent.
    static let output = 27
    /// Distinct forms and lengths of answers, 3 bytes each.
    static let answerTable = 28
    /// Answer kind of each answer.
    static let answers = 29
    /// Bytes of the answers.
    static let answerBytes = 30
    /// Everything else, each with its length.
    static let other = 31
    /// Time in the guest, one byte an exit; empty without timing.
    static let guestTime = 32
    /// Time outside the guest before each exit.
    static let hostTime = 33
    /// Times that do not fit a byte.
    static let longTimes = 34
    static let count = 35

    // In traces with a world stream only:
    /// Exits whose world events are not what their site had before.
    static let worldShapes = 35
    /// Times of world events: differences to the one before.
    static let worldTimes = 36
    /// Bytes of console input.
    static let worldInput = 37
    static let countWithWorld = 38
}

/// Bits of the shape column.
enum ExitShape {
    /// A mask follows; else it is that of the site's exit before.
    static let mask: UInt8 = 1 << 0
    static let system: UInt8 = 1 << 1
    static let all: UInt8 = 3
}

/// What exits at one place have in common.
struct Site: Hashable {
    static let bytes = 24
    var rip: UInt64
    /// The fixed part of the detail: direction, size, port and count; length and direction; MSR and
    /// why. Zero where the reason has none.
    var form: UInt64
    var reason: UInt32
    var rewind: UInt8
    /// The row's flags without bit 0.
    var flags: UInt8

    /// Bytes of the detail that `form` holds.
    static func formBytes(_ reason: UInt32) -> Int {
        switch reason {
        case 2, 29, 30: 8
        case 6: 2
        default: 0
        }
    }

    var hashValue64: UInt64 {
        var hash = rip &* 0x9E37_79B9_7F4A_7C15
        hash = (hash ^ (hash >> 29) ^ form) &* 0xBF58_476D_1CE4_E5B9
        hash ^= UInt64(reason) << 16 ^ UInt64(rewind) << 8 ^ UInt64(flags)
        hash = hash &* 0x94D0_49BB_1331_11EB
        return hash ^ (hash >> 32)
    }
}

/// What encoder and decoder remember of a site within one block.
struct SiteState {
    var site: Site
    var lastMask: UInt32 = 0
    var lastAddress: UInt64 = 0
    /// The site's exit before had a clock value first.
    var hasClock = false
}
