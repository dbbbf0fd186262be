internal import Machine
internal import Trace

extension TraceInfo {
    /// Prints it as one JSON object of schema `vmtape.info/1`, on one line.
    ///
    /// Keys: schema, path, complete, timing, world_stream, exits, events, blocks, tail_blocks,
    /// file_bytes, event_bytes, [bytes_per_exit], [duration_ns], [end], machine, images, command_line,
    /// rewritten_sites, cpuid_rows, cpuid_rows_differing, host, [recorded], [parent], [digests],
    /// damages.
    public func writeJSON(to stream: OutputStream) {
        var json = JSONWriter(stream)
        json.beginObject()
        json.key("schema")
        json.value("vmtape.info/1" as StaticString)
        json.pair("path", path)
        json.pair("complete", isComplete)
        json.pair("timing", hasTiming)
        json.pair("world_stream", hasWorldStream)
        json.pair("exits", exitCount)
        json.pair("events", eventCount)
        json.pair("blocks", UInt64(blockCount))
        json.pair("tail_blocks", UInt64(tailBlockCount))
        json.pair("file_bytes", fileBytes)
        json.pair("event_bytes", eventBytes)
        if let bytesPerExit {
            json.key("bytes_per_exit")
            json.value((bytesPerExit * 1000).rounded() / 1000)
        }
        if let durationNanoseconds { json.pair("duration_ns", durationNanoseconds) }
        if let end {
            json.key("end")
            json.beginObject()
            json.pair("reason", end.event.reason.name)
            if let status = end.event.guestStatus {
                json.key("guest_status")
                json.value(Int(status))
            }
            json.pair("mid_flight", end.event.isInMidFlight)
            if let memory = end.event.memory { json.pair("ram", memory.description) }
            json.endObject()
        }
        writeMachine(&json)
        writeOrigin(&json)
        if let digests {
            json.key("digests")
            json.beginObject()
            json.pair("full", digests.full.description)
            json.pair("output", digests.output.description)
            json.pair("output_events", digests.outputCount)
            json.pair("input", digests.input.description)
            json.pair("input_events", digests.inputCount)
            json.endObject()
        }
        json.key("damages")
        json.beginArray()
        for damage in damages { json.value(damage) }
        json.endArray()
        json.endObject()
        json.endLine()
    }

    private func writeMachine(_ json: inout JSONWriter) {
        json.key("machine")
        json.beginObject()
        json.pair("ram_bytes", header.machine.ramBytes)
        json.pair("vcpus", UInt64(header.machine.vCPUCount))
        json.properties(header.machine.properties)
        json.key("devices")
        json.beginArray()
        for device in header.machine.devices {
            json.beginObject()
            json.pair("name", device.name)
            json.pair("base", device.base)
            json.pair("interrupt", device.interrupt)
            json.pair("configuration", device.configuration)
            json.endObject()
        }
        json.endArray()
        json.endObject()
        json.key("images")
        json.beginArray()
        for image in header.images {
            json.beginObject()
            json.pair("name", image.name)
            json.pair("kind", image.kind)
            json.pair("bytes", image.byteCount)
            json.pair("xxh128", image.digest.description)
            json.properties(image.properties)
            json.endObject()
        }
        json.endArray()
        json.pair("command_line", header.commandLine)
        json.pair("rewritten_sites", UInt64(header.rewrittenSites.count))
        json.pair("cpuid_rows", UInt64(header.observedCPUID.count))
        json.pair("cpuid_rows_differing", UInt64(differingCPUIDRows))
    }

    private func writeOrigin(_ json: inout JSONWriter) {
        json.key("host")
        json.beginObject()
        for fact in header.hostFacts.facts { json.pair(fact.name, fact.value) }
        json.endObject()
        if let observed = header.observed {
            json.key("recorded")
            json.beginObject()
            json.pair("unix_ns", observed.creationNanoseconds)
            json.pair("host", observed.hostName)
            json.key("command")
            json.beginArray()
            for argument in observed.command { json.value(argument) }
            json.endArray()
            json.properties(observed.properties)
            json.endObject()
        }
        if let parent = header.parent {
            json.key("parent")
            json.beginObject()
            json.pair("name", parent.name)
            json.pair("exit", parent.exit)
            json.pair("digest", parent.digest.description)
            json.endObject()
        }
    }
}

extension JSONWriter {
    mutating func pair(_ name: String, _ text: String) {
        key(name)
        value(text)
    }

    mutating func pair(_ name: String, _ number: UInt64) {
        key(name)
        value(number)
    }

    mutating func pair(_ name: String, _ flag: Bool) {
        key(name)
        value(flag)
    }

    mutating func properties(_ properties: [Property]) {
        key("properties" as StaticString)
        beginObject()
        for property in properties { pair(property.key, property.value) }
        endObject()
    }
}
