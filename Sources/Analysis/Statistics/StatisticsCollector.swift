public import Trace
internal import Machine

/// Counts the exits of a run, in memory that does not grow with the run's length.
///
/// It reads events and not frames: what `stat` does for an exit costs a fraction of decoding it.
public struct StatisticsCollector {
    private let options: StatisticsOptions
    private let names: AddressNames
    private let claimed: ClaimedAddresses
    private var groups: StatisticsGroups
    private var result: Statistics
    /// The group of the exit before, whose time outside the guest comes with the next exit.
    private var lastGroup: Int?
    /// The last exit is one at which an instruction was rewritten.
    private var isRewriting = false
    /// Mode and CPL as they were last computed, per vCPU.
    private var states: [(mode: UInt64, cpl: UInt64)?]
    /// For `symbol`: the key of each address's function, by the address's number.
    private var symbolKeys: [UInt64] = []
    private var symbolLabels: [String] = []
    private var symbolNumbers: [String: Int] = [:]
    private var unclaimed = WordMap()
    private var interruptions: [UInt64: Int] = [:]

    /// Different ports and pages that are told one by one.
    private static let unclaimedLimit = 1024
    /// Marks keys that stand for an exit reason where the grouping asks for something that an
    /// exit does not have.
    private static let reasonTag: UInt64 = 1 << 63

    /// Counts exits of a machine.
    public init(
        machine: MachineDescription, options: StatisticsOptions = .init(),
        names: AddressNames = AddressNames()
    ) {
        self.options = options
        self.names = names
        claimed = ClaimedAddresses(machine)
        let width: UInt64 =
            switch options.over {
            case .exits(let count): max(1, count)
            case .nanoseconds(let count): max(1, count)
            case nil: 0
            }
        groups = StatisticsGroups(bucketWidth: width)
        states = Array(repeating: nil, count: 256)
        result = Statistics(
            options: options, rows: [], exitCount: 0, guestNanoseconds: 0, vmmNanoseconds: 0,
            answerCount: 0, completionCount: 0, rewrittenCount: 0, rewritingCount: 0,
            interruptions: [], deviceWriteCount: 0, deviceWriteBytes: 0, world: WorldSize(),
            unclaimed: [], unclaimedElsewhere: 0, damages: [])
    }

    /// Counts a whole trace, or some of its exits; what is damaged is told in the result.
    ///
    /// - Parameter progress: called once a few thousand exits with the number reached; false ends
    ///   the count there.
    /// - Throws: the first exit cannot be found.
    public static func statistics(
        of reader: TraceReader, exits: ClosedRange<UInt64>? = nil,
        options: StatisticsOptions = .init(), names: AddressNames = AddressNames(),
        progress: (UInt64) -> Bool = { _ in true }
    ) throws(TraceError) -> Statistics {
        var collector = StatisticsCollector(
            machine: reader.header.machine, options: options, names: names)
        var cursor = try reader.events(from: exits?.lowerBound ?? 0)
        let last = exits?.upperBound ?? .max
        var untilProgress = 1
        reading: while true {
            do throws(TraceError) {
                while let event = try cursor.next() {
                    if case .exit = event {
                        if cursor.nextExitNumber &- 1 > last { break reading }
                        untilProgress -= 1
                        if untilProgress == 0 {
                            untilProgress = 4096
                            if !progress(cursor.nextExitNumber) { break reading }
                        }
                    }
                    collector.add(event, cursor)
                }
                break reading
            } catch {
                collector.lastGroup = nil
                collector.result.damages.append(error.description)
            }
        }
        collector.result.world = cursor.worldSize
        return collector.finish()
    }

    /// Counts one event, on which the cursor stands.
    @inline(__always)
    public mutating func add(_ event: Event, _ cursor: borrowing EventCursor) {
        switch event {
        case .exit(let exit): add(exit, cursor)
        case .answer: result.answerCount &+= 1
        default: addOther(event, cursor)
        }
    }

    @inline(__always)
    private mutating func add(_ exit: ExitEvent, _ cursor: borrowing EventCursor) {
        let time = cursor.time
        if let time {
            result.durationNanoseconds = time.returnedNanoseconds
            result.guestNanoseconds &+= time.guestNanoseconds
            // What came before the first exit is the runner's start, and no exit's time.
            if let lastGroup {
                result.vmmNanoseconds &+= time.hostNanoseconds
                if options.measure == .vmm { groups.addTime(lastGroup, time.hostNanoseconds) }
            }
        }
        let group = groups.group(of: key(exit, cursor))
        switch options.over {
        case .nanoseconds: groups.count(group, at: time?.returnedNanoseconds ?? 0)
        default: groups.count(group, at: result.exitCount)
        }
        if let time, options.measure == .guest { groups.addTime(group, time.guestNanoseconds) }
        lastGroup = group
        result.exitCount &+= 1
        isRewriting = false
        if exit.flags.contains(.rewrittenInstruction) {
            if exit.reason == .debug {
                isRewriting = true
            } else {
                result.rewrittenCount &+= 1
            }
        } else {
            checkClaim(exit.detail)
        }
    }

    @inline(__always)
    private mutating func key(_ exit: ExitEvent, _ cursor: borrowing EventCursor) -> UInt64 {
        let reason = UInt64(exit.reason.rawValue)
        switch options.grouping {
        case .reason: return reason
        case .port:
            guard case .io(let isWrite, _, let port, _, _) = exit.detail else {
                return reason | Self.reasonTag
            }
            return UInt64(port) << 1 | (isWrite ? 1 : 0)
        case .address:
            guard case .mmio(let address, _, let isWrite, _) = exit.detail else {
                return reason | Self.reasonTag
            }
            return (address.rawValue & ~(3 << 62)) << 1 | (isWrite ? 1 : 0)
        case .site: return linear(exit, cursor)
        case .symbol: return symbolKey(linear(exit, cursor))
        case .cpl: return state(exit, cursor).cpl
        case .mode: return state(exit, cursor).mode
        }
    }

    @inline(__always)
    private mutating func state(
        _ exit: ExitEvent, _ cursor: borrowing EventCursor
    ) -> (mode: UInt64, cpl: UInt64) {
        let vCPU = Int(cursor.vCPU)
        if exit.changedSystemWords == 0, let known = states[vCPU] { return known }
        let system = cursor.system
        let found = (mode: system.mode.place, cpl: UInt64(system.cpl))
        states[vCPU] = found
        return found
    }

    private mutating func linear(_ exit: ExitEvent, _ cursor: borrowing EventCursor) -> UInt64 {
        if state(exit, cursor).mode == CPUMode.long.place { return exit.instructionAddress }
        let base = cursor.system.words[SystemRegisters.SegmentName.cs.rawValue * 3]
        return (base &+ exit.instructionAddress) & 0xFFFF_FFFF
    }

    private mutating func symbolKey(_ address: UInt64) -> UInt64 {
        guard let number = names.number(of: address) else { return .max }
        while symbolKeys.count <= number {
            let function = names.name(numbered: symbolKeys.count)?.function
            guard let function else {
                symbolKeys.append(.max)
                continue
            }
            if let known = symbolNumbers[function] {
                symbolKeys.append(UInt64(known))
            } else {
                symbolNumbers[function] = symbolLabels.count
                symbolKeys.append(UInt64(symbolLabels.count))
                symbolLabels.append(function)
            }
        }
        return symbolKeys[number]
    }

    @inline(__always)
    private mutating func checkClaim(_ detail: ExitDetail<Range<Int>>) {
        switch detail {
        case .io(let isWrite, _, let port, let count, _):
            if !claimed.claims(port: port) { addUnclaimed(UInt64(port), isWrite, UInt64(count)) }
        case .mmio(let address, _, let isWrite, _):
            if !claimed.claims(address: address.rawValue) {
                addUnclaimed(address.rawValue & ~0xFFF | Self.reasonTag, isWrite, 1)
            }
        default: break
        }
    }

    private mutating func addUnclaimed(_ key: UInt64, _ isWrite: Bool, _ count: UInt64) {
        var index = unclaimed[key]
        if index == nil, unclaimed.count < Self.unclaimedLimit {
            index = result.unclaimed.count
            unclaimed.insert(key, result.unclaimed.count)
            result.unclaimed.append(
                .init(
                    address: key & ~Self.reasonTag, isMemory: key & Self.reasonTag != 0, reads: 0,
                    writes: 0))
        }
        guard let index else {
            result.unclaimedElsewhere &+= count
            return
        }
        if isWrite {
            result.unclaimed[index].writes &+= count
        } else {
            result.unclaimed[index].reads &+= count
        }
    }

    @inline(never)
    private mutating func addOther(_ event: Event, _ cursor: borrowing EventCursor) {
        switch event {
        case .completion:
            if cursor.isStoredRow { break }
            if isRewriting {
                result.rewritingCount &+= 1
            } else {
                result.completionCount &+= 1
            }
        case .deviceWrite(_, let data):
            result.deviceWriteCount &+= 1
            result.deviceWriteBytes &+= UInt64(data.count)
        case .interruption(let kind, let vector, _, let isInMidFlight):
            let key = UInt64(kind.rawValue) << 8 | UInt64(vector)
            let index = interruptions[key] ?? result.interruptions.count
            if index == result.interruptions.count {
                interruptions[key] = index
                let label = Interruption(kind, vector: vector).text
                result.interruptions.append(.init(label: label, count: 0, inMidFlight: 0))
            }
            result.interruptions[index].count &+= 1
            if isInMidFlight {
                result.interruptions[index].inMidFlight &+= 1
                if cursor.interruption?.landmark?.stored != nil {
                    result.interruptions[index].stored &+= 1
                }
            }
        case .start, .exit, .answer, .end: break
        }
    }

    /// What was counted so far.
    public func finish() -> Statistics {
        var result = result
        result.rows = groups.groups.indices.map { groups.row($0, label($0)) }
        result.rows.sort { ($1.count, $0.label) < ($0.count, $1.label) }
        if let over = result.options.over {
            switch over {
            case .exits: result.options.over = .exits(groups.bucketWidth)
            case .nanoseconds: result.options.over = .nanoseconds(groups.bucketWidth)
            }
        }
        result.interruptions.sort { ($1.count, $0.label) < ($0.count, $1.label) }
        result.unclaimed.sort {
            $0.isMemory == $1.isMemory ? $0.address < $1.address : !$0.isMemory
        }
        return result
    }

    private func label(_ group: Int) -> String {
        if group == groups.other { return "(other)" }
        let key = groups.keys[group]
        if options.grouping == .port || options.grouping == .address {
            if key & Self.reasonTag != 0 {
                return "(\(ExitReason(rawValue: UInt32(truncatingIfNeeded: key)).name))"
            }
            let direction =
                options.grouping == .port
                ? (key & 1 != 0 ? "out" : "in") : (key & 1 != 0 ? "write" : "read")
            return "0x\(TextLine.hexadecimal(key >> 1)) \(direction)"
        }
        switch options.grouping {
        case .reason: return ExitReason(rawValue: UInt32(truncatingIfNeeded: key)).name
        case .site:
            let address = "0x\(TextLine.hexadecimal(key))"
            return names.name(of: key).map { "\(address) \($0.text)" } ?? address
        case .symbol: return key == .max ? "(no symbol)" : symbolLabels[Int(key)]
        case .cpl: return "CPL \(key)"
        case .mode: return CPUMode.allCases[Int(key)].rawValue
        case .port, .address: return ""
        }
    }
}
