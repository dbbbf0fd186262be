internal import Machine
public import Trace

/// A run as a Perfetto trace (`perfetto.protos.Trace`, perfetto.dev/docs/reference), streamed
/// packet by packet.
///
/// One process with these tracks: for each vCPU, the time in the guest (slices named after the
/// function that exited) and, for each exit reason, the time outside (slices named `out 0x3f8`,
/// with the exit's number as an argument); interruptions and the end as instants; the console, an
/// instant for each line; a counter of exits per second. Timestamps are nanoseconds since the start
/// of the recording. Without timing in the trace, an exit is taken to be 1 µs after the one before.
public struct PerfettoExport {
    // Field numbers of protos/perfetto/trace in Perfetto's source.
    private enum Packet {
        static let timestamp: UInt64 = 8
        static let sequence: UInt64 = 10
        static let trackEvent: UInt64 = 11
        static let internedData: UInt64 = 12
        static let sequenceFlags: UInt64 = 13
        static let trackDescriptor: UInt64 = 60
    }

    private enum TrackEvent {
        static let debugAnnotations: UInt64 = 4
        static let type: UInt64 = 9
        static let nameNumber: UInt64 = 10
        static let track: UInt64 = 11
        static let counterValue: UInt64 = 30
    }

    private enum EventType: UInt64 {
        case begin = 1
        case end = 2
        case instant = 3
        case counter = 4
    }

    private let stream: OutputStream
    private let names: AddressNames
    private var console: ConsoleExtractor
    private var consoleLine: [UInt8] = []
    private var packet = ProtobufMessage()
    private var event = ProtobufMessage()
    private var interned = ProtobufMessage()
    private var annotation = ProtobufMessage()
    /// Numbers of event names, from 1; bounded, as the reader keeps them too.
    private var nameNumbers: [String: UInt64] = [:]
    private var tracks: Set<UInt64> = []
    /// Number of each port's name, and of each address's.
    private var portNames = WordMap()
    private var addressNames: [UInt64] = []
    private var bucket: UInt64 = 0
    private var bucketExits: UInt64 = 0
    private var last: UInt64 = 0

    private static let processTrack: UInt64 = 1
    private static let consoleTrack: UInt64 = 2
    private static let counterTrack: UInt64 = 3
    private static let eventTrack: UInt64 = 4
    private static let nameLimit = 1 << 16
    private static let bucketNanoseconds: UInt64 = 10_000_000
    private static let exitAnnotation: UInt64 = 1

    /// Writes the descriptions of the tracks that are always there.
    public init(
        _ stream: OutputStream, header: TraceHeader, title: String,
        names: AddressNames = AddressNames()
    ) {
        self.stream = stream
        self.names = names
        console = ConsoleExtractor(machine: header.machine)
        var process = ProtobufMessage()
        process.add(1, 1)  // pid
        process.add(6, "vmtape \(title.split(separator: "/").last ?? "")")
        var descriptor = ProtobufMessage()
        descriptor.add(1, Self.processTrack)
        descriptor.add(3, process)
        // The name of the one annotation, and that the sequence begins here.
        var annotationName = ProtobufMessage()
        annotationName.add(1, Self.exitAnnotation)
        annotationName.add(2, "exit")
        interned.add(3, annotationName)
        packet.add(Packet.trackDescriptor, descriptor)
        packet.add(Packet.sequence, 1)
        packet.add(Packet.internedData, interned)
        packet.add(Packet.sequenceFlags, 1)
        endPacket()
        interned.removeAll()
        describe(Self.consoleTrack, "console")
        describe(Self.counterTrack, "exits per second", isCounter: true)
        describe(Self.eventTrack, "events")
    }

    /// Writes one exit.
    public mutating func add(_ frame: borrowing ExitFrame) {
        let time = frame.time
        let (untimed, overflow) = frame.number.multipliedReportingOverflow(by: 1000)
        let now = max(last, time?.sinceStart ?? (overflow ? .max : untimed))
        let guest = time?.guest ?? 900
        let begin = max(last, now - min(now, guest))
        let end = now &+ (time?.vmm ?? 100)
        count(now)
        let guestTrack = track(frame.vCPU, reason: nil)
        let address = addressName(frame.linearAddress)
        write(.begin, guestTrack, begin, name: address, exit: nil)
        write(.end, guestTrack, now, name: nil, exit: nil)
        let exitTrack = track(frame.vCPU, reason: frame.reason)
        write(.begin, exitTrack, now, name: kindName(frame), exit: frame.number)
        write(.end, exitTrack, end, name: nil, exit: nil)
        last = end
        for event in frame.events {
            let name = name(event.text)
            write(.instant, Self.eventTrack, end, name: name, exit: frame.number)
        }
        console.add(frame)
        if !console.output.isEmpty { addConsole(end) }
    }

    /// Writes what is left.
    public mutating func finish() {
        if !consoleLine.isEmpty { writeConsoleLine(last) }
        if bucketExits > 0 { writeCounter() }
    }

    // MARK: names and tracks

    private mutating func addConsole(_ now: UInt64) {
        for byte in console.output {
            if byte == 0x0A {
                writeConsoleLine(now)
            } else {
                consoleLine.append(byte)
                if consoleLine.count >= 1024 { writeConsoleLine(now) }
            }
        }
        console.removeOutput()
    }

    private mutating func writeConsoleLine(_ now: UInt64) {
        // Lines seldom repeat, so they are not interned: name is field 23.
        let text = String(decoding: consoleLine.filter { $0 != 0x0D }, as: UTF8.self)
        consoleLine.removeAll(keepingCapacity: true)
        event.removeAll()
        event.add(TrackEvent.type, EventType.instant.rawValue)
        event.add(TrackEvent.track, Self.consoleTrack)
        event.add(23, text.isEmpty ? " " : text)
        endEvent(now)
    }

    private mutating func name(_ text: String) -> UInt64 {
        if let known = nameNumbers[text] { return known }
        guard nameNumbers.count < Self.nameLimit else { return name("(other)") }
        let number = UInt64(nameNumbers.count + 1)
        nameNumbers[text] = number
        var entry = ProtobufMessage()
        entry.add(1, number)
        entry.add(2, text)
        interned.add(2, entry)
        return number
    }

    private mutating func kindName(_ frame: borrowing ExitFrame) -> UInt64 {
        guard case .io(let isWrite, _, let port, _, _) = frame.detail, frame.flags.isEmpty else {
            return name(ExitKind.label(copy frame))
        }
        let key = UInt64(port) << 1 | (isWrite ? 1 : 0)
        if let known = portNames[key] { return UInt64(known) }
        let number = name(ExitKind.label(copy frame))
        portNames.insert(key, Int(number))
        return number
    }

    private mutating func addressName(_ address: UInt64) -> UInt64 {
        guard !names.isEmpty, let number = names.number(of: address) else {
            return name("guest")
        }
        while addressNames.count <= number {
            addressNames.append(
                name(names.name(numbered: addressNames.count)?.shortFunction ?? "guest"))
        }
        return addressNames[number]
    }

    /// The track of a vCPU's time in the guest, or outside it for a reason.
    private mutating func track(_ vCPU: UInt8, reason: ExitReason?) -> UInt64 {
        let place = reason.map { UInt64($0.rawValue) + 1 } ?? 0
        let track = 1 << 40 | UInt64(vCPU) << 32 | place
        if !tracks.contains(track) {
            tracks.insert(track)
            describe(track, "vCPU \(vCPU) \(reason?.name ?? "guest")")
        }
        return track
    }

    private mutating func describe(_ track: UInt64, _ name: String, isCounter: Bool = false) {
        var descriptor = ProtobufMessage()
        descriptor.add(1, track)
        descriptor.add(2, name)
        descriptor.add(5, Self.processTrack)
        if isCounter { descriptor.add(8, ProtobufMessage()) }
        packet.removeAll()
        packet.add(Packet.trackDescriptor, descriptor)
        packet.add(Packet.sequence, 1)
        endPacket()
    }

    // MARK: packets

    private mutating func count(_ now: UInt64) {
        if now / Self.bucketNanoseconds != bucket {
            if bucketExits > 0 { writeCounter() }
            bucket = now / Self.bucketNanoseconds
            bucketExits = 0
        }
        bucketExits += 1
    }

    private mutating func writeCounter() {
        event.removeAll()
        event.add(TrackEvent.type, EventType.counter.rawValue)
        event.add(TrackEvent.track, Self.counterTrack)
        event.add(
            TrackEvent.counterValue, bucketExits * (1_000_000_000 / Self.bucketNanoseconds))
        endEvent(bucket * Self.bucketNanoseconds)
    }

    @inline(__always)
    private mutating func write(
        _ type: EventType, _ track: UInt64, _ time: UInt64, name: UInt64?, exit: UInt64?
    ) {
        event.removeAll()
        if let exit {
            annotation.removeAll()
            annotation.add(1, Self.exitAnnotation)
            annotation.add(3, exit)
            event.add(TrackEvent.debugAnnotations, annotation)
        }
        event.add(TrackEvent.type, type.rawValue)
        if let name { event.add(TrackEvent.nameNumber, name) }
        event.add(TrackEvent.track, track)
        endEvent(time)
    }

    private mutating func endEvent(_ time: UInt64) {
        packet.removeAll()
        packet.add(Packet.timestamp, time)
        packet.add(Packet.sequence, 1)
        packet.add(Packet.trackEvent, event)
        if !interned.bytes.isEmpty {
            packet.add(Packet.internedData, interned)
            interned.removeAll()
        }
        // The names that the event refers to were given before it.
        packet.add(Packet.sequenceFlags, 2)
        endPacket()
    }

    /// Writes the packet as field 1 of `Trace`.
    private mutating func endPacket() {
        stream.write(byte: 0x0A)
        var rest = packet.bytes.count
        while rest >= 0x80 {
            stream.write(byte: UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        stream.write(byte: UInt8(truncatingIfNeeded: rest))
        stream.write(bytes: packet.bytes)
        packet.removeAll()
    }
}
