internal import Machine
internal import Trace

/// In what the set-up of two runs differs: told before anything else, as it explains most.
enum HeaderDifferences {
    static func between(_ a: TraceHeader, _ b: TraceHeader) -> [Difference] {
        var found: [Difference] = []
        func compare(_ name: String, _ a: String?, _ b: String?) {
            if a != b { found.append(Difference(name, a, b)) }
        }
        compare(
            "RAM", TraceInfo.size(a.machine.ramBytes), TraceInfo.size(b.machine.ramBytes))
        compare("vCPUs", String(a.machine.vCPUCount), String(b.machine.vCPUCount))
        found += lists("device", a.machine.devices.map(\.text), b.machine.devices.map(\.text))
        found += properties("machine", a.machine.properties, b.machine.properties)
        found += images(a.images, b.images)
        compare("command line", a.commandLine, b.commandLine)
        found += cpuid("CPUID", a.observedCPUID, b.observedCPUID)
        if a.observedCPUID == b.observedCPUID {
            found += cpuid("requested CPUID", a.requestedCPUID, b.requestedCPUID)
        }
        for difference in a.hostFacts.behavioursThatDiffer(from: b.hostFacts) {
            found.append(
                Difference("host \(difference.name)", difference.here, difference.there))
        }
        if a.rewrittenSites != b.rewrittenSites {
            compare(
                "rewritten instructions", "\(a.rewrittenSites.count)", "\(b.rewrittenSites.count)")
            if a.rewrittenSites.count == b.rewrittenSites.count {
                found.append(Difference("rewritten instructions", "at other places", nil))
            }
        }
        compare("parent", a.parent.map(\.text), b.parent.map(\.text))
        return found
    }

    /// Entries that only one side has, or that stand in another order.
    private static func lists(_ name: String, _ a: [String], _ b: [String]) -> [Difference] {
        guard a != b else { return [] }
        var found = a.filter { !b.contains($0) }.map { Difference(name, $0, nil) }
        found += b.filter { !a.contains($0) }.map { Difference(name, nil, $0) }
        return found.isEmpty ? [Difference(name, "the order differs", nil)] : found
    }

    private static func properties(
        _ name: String, _ a: [Property], _ b: [Property]
    ) -> [Difference] {
        var found: [Difference] = []
        for property in a {
            let other = b.first { $0.key == property.key }?.value
            if other != property.value {
                found.append(Difference("\(name) \(property.key)", property.value, other))
            }
        }
        for property in b where !a.contains(where: { $0.key == property.key }) {
            found.append(Difference("\(name) \(property.key)", nil, property.value))
        }
        return found
    }

    private static func images(_ a: [ImageRecord], _ b: [ImageRecord]) -> [Difference] {
        var found: [Difference] = []
        for index in 0..<max(a.count, b.count) {
            let left = index < a.count ? a[index] : nil
            let right = index < b.count ? b[index] : nil
            if left?.digest != right?.digest || left?.kind != right?.kind {
                found.append(Difference("image \(index)", left?.text, right?.text))
            } else if let left, let right {
                found += properties("image \(left.name)", left.properties, right.properties)
            }
        }
        return found
    }

    private static func cpuid(
        _ name: String, _ a: [CPUIDEntry], _ b: [CPUIDEntry]
    ) -> [Difference] {
        var found: [Difference] = []
        func find(_ entry: CPUIDEntry, in table: [CPUIDEntry]) -> CPUIDEntry? {
            table.first { $0.function == entry.function && $0.index == entry.index }
        }
        for entry in a {
            let other = find(entry, in: b)
            if other != entry {
                found.append(Difference("\(name) \(entry.place)", entry.text, other?.text))
            }
        }
        for entry in b where find(entry, in: a) == nil {
            found.append(Difference("\(name) \(entry.place)", nil, entry.text))
        }
        return found
    }
}

extension DeviceDescription {
    fileprivate var text: String {
        [name, "at \(base)", interrupt, configuration].filter { !$0.isEmpty }
            .joined(separator: " ")
    }
}

extension ImageRecord {
    fileprivate var text: String {
        "\(name) (\(kind)), \(TraceInfo.size(byteCount)), XXH128 \(digest)"
    }
}

extension ParentTrace {
    fileprivate var text: String { "\(name) from exit \(exit) on, \(digest)" }
}

extension CPUIDEntry {
    fileprivate var place: String {
        let leaf = "0x" + TextLine.hexadecimal(UInt64(function))
        return isIndexSignificant ? "\(leaf)/\(index)" : leaf
    }

    fileprivate var text: String {
        [eax, ebx, ecx, edx].map { TextLine.hexadecimal(UInt64($0), 8) }.joined(separator: " ")
    }
}
