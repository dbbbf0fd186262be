internal import Machine
internal import Trace

extension TraceInfo {
    /// Prints it for people.
    public func write(to stream: OutputStream, style: TextStyle = TextStyle()) {
        var text = InfoText(stream, style)
        writeRun(&text)
        writeMachine(&text)
        writeHost(&text)
        if let digests {
            text.row("digests", "full    \(digests.full)")
            text.row(
                "", "output  \(digests.output)  over \(Self.grouped(digests.outputCount)) events")
            text.row(
                "", "input   \(digests.input)  over \(Self.grouped(digests.inputCount)) events")
        }
        for damage in damages { text.row("damage", damage, .bad) }
    }

    private func writeRun(_ text: inout InfoText) {
        let state =
            isComplete ? "complete" : damages.isEmpty ? "incomplete" : "incomplete or damaged"
        text.row("trace", path, .bold)
        text.row(
            "",
            "\(state), \(Self.counted(exitCount, "exit")), \(Self.counted(eventCount, "event"))"
                + (durationNanoseconds.map { ", \(TraceText.seconds($0)) s" } ?? ""),
            isComplete ? .good : .warning)
        var size =
            "\(Self.size(fileBytes)); events take \(Self.size(eventBytes)) in "
            + Self.counted(UInt64(blockCount), "block")
        if tailBlockCount > 0 { size += ", \(tailBlockCount) of them in the side file" }
        if let bytesPerExit { size += ", \(Self.decimal(bytesPerExit, 2)) bytes an exit" }
        text.row("", size)
        text.row(
            "",
            hasWorldStream
                ? "with a world stream: its devices can be run again"
                : "without a world stream: what its devices took from outside is not in it")
        if let end { text.row("end", end.event.text.dropPrefix("end: ")) }
        if let parent = header.parent {
            text.row("parent", "\(parent.name), from exit \(parent.exit) on")
        }
    }

    private func writeMachine(_ text: inout InfoText) {
        let machine = header.machine
        text.row(
            "machine",
            "\(Self.size(machine.ramBytes)) RAM, \(Self.counted(UInt64(machine.vCPUCount), "vCPU"))"
        )
        for property in machine.properties {
            text.row("", "\(property.key): \(property.value)")
        }
        for device in machine.devices {
            var line = "\(device.name) at \(device.base)"
            if !device.interrupt.isEmpty { line += ", interrupt \(device.interrupt)" }
            if !device.configuration.isEmpty { line += ", \(device.configuration)" }
            text.row("device", line)
        }
        for image in header.images {
            text.row(
                "image",
                "\(image.name) (\(image.kind)), \(Self.size(image.byteCount)), "
                    + "XXH128 \(image.digest)")
            for property in image.properties {
                text.row("", "\(property.key): \(property.value)")
            }
        }
        if !header.commandLine.isEmpty { text.row("arguments", header.commandLine) }
        if !header.rewrittenSites.isEmpty {
            text.row(
                "rewritten", Self.counted(UInt64(header.rewrittenSites.count), "instruction"))
        }
        let differing = differingCPUIDRows
        text.row(
            "CPUID",
            "\(Self.counted(UInt64(header.observedCPUID.count), "row")) seen by the guest, "
                + (differing == 0 ? "as requested" : "\(differing) not as requested"))
    }

    private func writeHost(_ text: inout InfoText) {
        for fact in header.hostFacts.facts where fact.weight == .description {
            guard fact.name.hasPrefix("host.") else { continue }
            text.row("host", "\(fact.name.dropFirst(5)): \(fact.value)")
        }
        let behaviours = header.hostFacts.facts.count { $0.weight == .behaviour }
        if behaviours > 0 {
            text.row(
                "host",
                "KVM \(header.hostFacts["kvm.modules"] ?? "unknown"): \(behaviours) behaviours "
                    + "that a replay needs are kept (--json lists them, doctor shows this host's)")
        }
        guard let observed = header.observed else { return }
        text.row(
            "recorded", "\(Self.date(observed.creationNanoseconds)) on \(observed.hostName)")
        if !observed.command.isEmpty {
            text.row("", observed.command.joined(separator: " "))
        }
        for property in observed.properties {
            text.row("", "\(property.key): \(property.value)")
        }
    }

    /// `1 exit`, `2,864 exits`.
    static func counted(_ count: UInt64, _ noun: String) -> String {
        "\(grouped(count)) \(noun)\(count == 1 ? "" : "s")"
    }

    /// Decimal digits in groups of three.
    static func grouped(_ number: UInt64) -> String {
        var text = ""
        for (index, digit) in String(number).reversed().enumerated() {
            if index > 0, index % 3 == 0 { text.append(",") }
            text.append(digit)
        }
        return String(text.reversed())
    }

    /// `600 bytes`, `1.5 KiB`, `64 MiB`.
    static func size(_ bytes: UInt64) -> String {
        guard bytes >= 1024 else { return counted(bytes, "byte") }
        var value = Double(bytes) / 1024
        var unit = 0
        let units = ["KiB", "MiB", "GiB", "TiB"]
        while value >= 1024, unit < units.count - 1 {
            value /= 1024
            unit += 1
        }
        let isWhole = value == value.rounded()
        return "\(decimal(value, isWhole ? 0 : value < 10 ? 2 : 1)) \(units[unit])"
    }

    /// A number with so many places.
    static func decimal(_ value: Double, _ places: Int) -> String {
        guard value.isFinite, abs(value) < 1e15 else { return String(value) }
        var scale: Double = 1
        for _ in 0..<places { scale *= 10 }
        let scaled = (abs(value) * scale).rounded()
        let sign = value < 0 && scaled > 0 ? "-" : ""
        let digits = String(UInt64(scaled))
        guard places > 0 else { return sign + digits }
        let padded = String(repeating: "0", count: max(0, places + 1 - digits.count)) + digits
        return sign + padded.dropLast(places) + "." + padded.suffix(places)
    }

    /// `2026-11-22 10:23:51 UTC`.
    static func date(_ nanoseconds: UInt64) -> String {
        let seconds = nanoseconds / 1_000_000_000
        // Days since 1 March of year 0, in the proleptic Gregorian calendar, where a leap day is
        // the last day of its year.
        let days = seconds / 86_400 + 719_468
        let era = days / 146_097
        let dayOfEra = days % 146_097
        let yearOfEra =
            (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shifted = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * shifted + 2) / 5 + 1
        let month = shifted < 10 ? shifted + 3 : shifted - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        func two(_ number: UInt64) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return "\(year)-\(two(month))-\(two(day)) \(two(seconds / 3600 % 24)):"
            + "\(two(seconds / 60 % 60)):\(two(seconds % 60)) UTC"
    }
}

extension String {
    fileprivate func dropPrefix(_ prefix: String) -> String {
        hasPrefix(prefix) ? String(dropFirst(prefix.count)) : self
    }
}

/// Rows of a heading and a text; a heading that repeats is left out, long texts are continued.
private struct InfoText {
    private let stream: OutputStream
    private var line: TextLine
    private var lastHeading = ""

    init(_ stream: OutputStream, _ style: TextStyle) {
        self.stream = stream
        line = TextLine(style)
    }

    mutating func row(_ heading: String, _ text: String, _ role: TextRole = .plain) {
        if heading != lastHeading, !heading.isEmpty { line.put(heading, .dim) }
        if !heading.isEmpty { lastHeading = heading }
        var rest = Substring(text)
        repeat {
            line.pad(11 - line.column)
            let piece = rest.count <= line.room ? rest : Self.piece(of: rest, line.room)
            line.put(String(piece), role)
            line.end(stream)
            rest = rest.dropFirst(piece.count)
            while rest.first == " " { rest = rest.dropFirst() }
        } while !rest.isEmpty
    }

    /// As many whole words as fit, or as many characters of a word that is too long.
    private static func piece(of text: Substring, _ room: Int) -> Substring {
        let prefix = text.prefix(max(room, 10))
        guard let space = prefix.lastIndex(of: " "), space > prefix.startIndex else {
            return prefix
        }
        return text[..<space]
    }
}
