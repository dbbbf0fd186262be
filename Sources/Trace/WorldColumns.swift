/// Takes the world events of a block apart into the columns behind those of the events.
///
/// What an exit usually has is not said: a site whose exit before had a clock value first has one
/// and nothing else, any other has none. Column 35 lists the exceptions.
struct WorldColumnEncoder: ~Copyable {
    private(set) var shapes = ByteBuffer(capacity: 256)
    private(set) var times = ByteBuffer(capacity: 4096)
    private(set) var input = ByteBuffer(capacity: 64)
    /// Kinds of the open exit's events.
    private var kinds: [UInt8] = []
    /// Exits since the one that was listed last; the time before the block's first exit counts as one.
    private var distance: UInt64 = 0
    private var lastMicroseconds: UInt64 = 0

    init() { kinds.reserveCapacity(64) }

    /// Takes in an event, as its row has it.
    mutating func add(_ row: UnsafeRawBufferPointer) {
        // SAFETY: the row was made by `WorldRow.put` in this process, and its frame checks.
        guard let base = row.baseAddress, row.count > 0,
            let kind = unsafe WorldEvent.Kind(rawValue: base.get(UInt8.self, at: 0))
        else { return }
        kinds.append(kind.rawValue)
        if kind.hasTime {
            let time = unsafe base.get(UInt64.self, at: 1)
            times.append(varint: time &- lastMicroseconds)
            lastMicroseconds = time
        } else if kind == .input {
            input.append(varint: UInt64(row.count - 3))
            unsafe input.append(UnsafeRawBufferPointer(rebasing: row[3...]))
        }
    }

    /// No more belongs to the open exit; `site` is its site, nil before the first exit of the block.
    mutating func close(_ site: inout SiteState) {
        let hasClock = kinds.first == WorldEvent.Kind.clock.rawValue
        list(isUsual: site.hasClock ? hasClock && kinds.count == 1 : kinds.isEmpty)
        site.hasClock = hasClock
    }

    /// No more belongs to the time before the block's first exit.
    mutating func closeBeginning() { list(isUsual: kinds.isEmpty) }

    private mutating func list(isUsual: Bool) {
        if !isUsual {
            shapes.append(varint: distance)
            shapes.append(varint: UInt64(kinds.count))
            for kind in kinds { shapes.append(kind) }
            distance = 0
        }
        distance += 1
        kinds.removeAll(keepingCapacity: true)
    }

    /// Begins the next block.
    mutating func removeAll() {
        shapes.removeAll()
        times.removeAll()
        input.removeAll()
        kinds.removeAll(keepingCapacity: true)
        distance = 0
        lastMicroseconds = 0
    }
}

/// A world event and the exit of its block that it belongs to.
struct WorldEntry: Equatable {
    /// From 0; -1 for the time before the block's first exit.
    var exit: Int
    var event: WorldEvent
}

/// Puts the world events of a block together from their columns. The bytes are untrusted.
enum WorldColumnDecoder {
    /// - Parameters:
    ///   - exitSites: the site of each exit of the block, in order.
    ///   - sites: all as they are at the block's start.
    static func decode(
        shapes: inout ByteReader, times: inout ByteReader, input: inout ByteReader,
        exitSites: [UInt16], siteCount: Int, into output: inout [WorldEntry]
    ) throws(Malformed) {
        var hasClock = [Bool](repeating: false, count: siteCount)
        var microseconds: UInt64 = 0
        var next = shapes.isAtEnd ? UInt64.max : try shapes.varint()
        for place in 0...exitSites.count {
            let site = place == 0 ? nil : Int(exitSites[place - 1])
            var isUsual = true
            var count = (site.map { hasClock[$0] } ?? false) ? 1 : 0
            if UInt64(place) == next {
                isUsual = false
                let listed = try shapes.varint()
                guard listed <= UInt64(shapes.remaining) else {
                    throw Malformed("\(listed) world events at one exit")
                }
                count = Int(listed)
            }
            guard output.count + count <= Limits.worldBlockEvents else {
                throw Malformed("more world events than the format allows in one block")
            }
            var first: UInt8 = 0
            for index in 0..<count {
                let kind = isUsual ? WorldEvent.Kind.clock.rawValue : try shapes.integer()
                if index == 0 { first = kind }
                output.append(
                    WorldEntry(
                        exit: place - 1,
                        event: try event(kind, &microseconds, &times, &input)))
            }
            if let site { hasClock[site] = first == WorldEvent.Kind.clock.rawValue }
            guard !isUsual else { continue }
            guard !shapes.isAtEnd else {
                next = .max
                continue
            }
            let distance = try shapes.varint()
            guard distance > 0, distance <= UInt64(exitSites.count) else {
                throw Malformed("world events at an exit that is not in the block")
            }
            next = UInt64(place) + distance
        }
        guard next == .max else {
            throw Malformed("world events at an exit that is not in the block")
        }
    }

    private static func event(
        _ kind: UInt8, _ microseconds: inout UInt64, _ times: inout ByteReader,
        _ input: inout ByteReader
    ) throws(Malformed) -> WorldEvent {
        guard let kind = WorldEvent.Kind(rawValue: kind) else {
            throw Malformed("a world event of unknown kind \(kind)")
        }
        if kind.hasTime { microseconds &+= try times.varint() }
        switch kind {
        case .clock: return .clock(microseconds: microseconds)
        case .wake: return .wake(microseconds: microseconds)
        case .kick: return .kick(microseconds: microseconds)
        case .acknowledge: return .acknowledge
        case .input:
            let count = try input.varint()
            guard count <= UInt64(Limits.worldInputBytes) else {
                throw Malformed("\(count) bytes of input in one world event")
            }
            // SAFETY: the reader checks the bound, and the bytes are copied.
            return .input(unsafe Array(try input.bytes(Int(count))))
        }
    }
}
