/// What is to be measured with.
struct BenchOptions {
    /// The bare C loop.
    var bare = ""
    /// The library that counts allocations.
    var shim = ""
    /// The polling guest.
    var guest = ""
    /// Debian's tboot; nil: what needs it is left out.
    var tboot: String?
    /// Where traces go.
    var directory = ""
    /// A tenth of the exits: a check that the bench itself works, not a measurement.
    var isQuick = false
    /// One JSON object a line instead of a table.
    var isJSON = false
    /// Set in the process that is measured from outside: how many rounds its guest makes.
    var childRounds: Int?

    /// Measures the loops alone.
    var isLoopsOnly = false
    /// Measures travelling alone.
    var isTravelOnly = false
    private var passes: Int?
    private var rounds: Int?

    /// How often run, record, replay and the bare loop take turns.
    var passCount: Int { passes ?? (isQuick ? 10 : 40) }
    /// Rounds of the guest in each turn; a round makes two exits.
    var roundsPerPass: Int { rounds ?? (isQuick ? 3_000 : 15_000) }
    /// Rounds of the guest where one recording is looked at.
    var roundsPerRecording: Int { isQuick ? 15_000 : 150_000 }
    /// Rounds of the short and the long recording whose memory and allocations are compared.
    var childRoundCounts: (short: Int, long: Int) {
        isQuick ? (50_000, 100_000) : (50_000, 500_000)
    }

    init(_ arguments: [String]) throws(BenchError) {
        for argument in arguments {
            let parts = argument.split(separator: "=", maxSplits: 1).map(String.init)
            let value = parts.count == 2 ? parts[1] : ""
            switch parts.first {
            case "--bare": bare = value
            case "--shim": shim = value
            case "--guest": guest = value
            case "--tboot": tboot = value
            case "--directory": directory = value
            case "--quick": isQuick = true
            case "--json": isJSON = true
            case "--loops": isLoopsOnly = true
            case "--travel": isTravelOnly = true
            case "--passes": passes = Int(value).map { max(1, $0) }
            case "--rounds": rounds = Int(value).map { min(max(1, $0), 100_000_000) }
            case "--child-rounds": childRounds = Int(value)
            default: throw BenchError(message: "unknown argument '\(argument)'", status: 64)
            }
        }
        guard !guest.isEmpty, !directory.isEmpty else {
            throw BenchError(
                message: "started by tools/bench, with --bare, --shim, --guest and --directory",
                status: 64)
        }
    }
}
