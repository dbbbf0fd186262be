internal import Analysis
internal import Execution
internal import GDBRemote
internal import Machine
internal import Trace

/// What `monitor` commands say, and where they take the machine.
enum MonitorAnswers {
    /// A terminal's usual width: a debugger does not say how wide it is.
    private static let style = TextStyle(width: 100, hasColour: false)
    /// Exits that `exits` shows to either side of the position.
    private static let neighbours: UInt64 = 10

    static func answer(
        _ command: MonitorCommand, _ run: inout RecordedRun, _ interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply {
        switch command {
        case .when(let isExact): return try when(isExact: isExact, &run, interrupt)
        case .goTo(let destination): return try go(to: destination, &run, interrupt)
        case .exits(let range): return try exits(range ?? around(run), run)
        case .exit(let number): return try exit(number, run)
        case .nextIO(let port): return try nextIO(port, &run, interrupt)
        case .previousIO(let port): return try previousIO(port, &run, interrupt)
        case .checkpoint: return try checkpoint(&run)
        case .lastWrite(let address, let length):
            return try lastWrite(address, length, &run, interrupt)
        case .disassemble(let address, let count): return disassemble(address, count, run)
        case .registers:
            let stream = OutputStream()
            var text = RegisterText(stream, style: style, names: run.names)
            text.write(run.machine.registers, run.machine.systemRegisters)
            return MonitorReply(stream.text)
        case .info: return info(run)
        }
    }

    /// Deep in ring 3 the name of the place is counted only when somebody asks for it, or where that
    /// takes no time.
    private static func when(
        isExact: Bool, _ run: inout RecordedRun, _ interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply {
        let isNamed: Bool
        do throws(ExecutionError) {
            isNamed = try run.machine.name(limit: isExact ? .max : TimeMachine.quickSteps) {
                interrupt.isRaised
            }
        } catch { throw DebugError("\(error)") }
        let note =
            isNamed
            ? ""
            : isExact
                ? " (interrupted while its steps were counted)"
                : " (so deep in ring 3 that counting takes long: monitor when exact counts)"
        return MonitorReply("position \(run.whereabouts())\(note)\n")
    }

    // MARK: Going

    private static func go(
        to destination: Destination, _ run: inout RecordedRun,
        _ interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply {
        let stop: TravelStop
        do throws(ExecutionError) {
            let isInterrupted = { interrupt.isRaised }
            if let position = destination.position(inRunOf: run.reader.exitCount) {
                stop = try run.machine.seek(to: position, isInterrupted: isInterrupted)
            } else {
                stop = try run.machine.seekEnd(isInterrupted: isInterrupted)
            }
        } catch { throw DebugError("\(error)") }
        return try arrived(stop, run)
    }

    private static func arrived(
        _ stop: TravelStop, _ run: borrowing RecordedRun
    ) throws(DebugError) -> MonitorReply {
        switch stop {
        case .diverged(let divergence): throw DebugError(divergenceLine(divergence, run.reader))
        case .interrupted:
            return MonitorReply("interrupted at \(run.whereabouts())\n", didMove: true)
        default: return MonitorReply("position \(run.whereabouts())\n", didMove: true)
        }
    }

    private static func nextIO(
        _ port: UInt16?, _ run: inout RecordedRun, _ interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply {
        let first = run.machine.position.exitCount
        guard first < run.reader.exitCount,
            let found = try find(first...(run.reader.exitCount - 1), port, run, isLast: false)
        else { throw DebugError("no \(name(port)) from here to the end") }
        return try go(to: .position(Position(exitCount: found + 1)), &run, interrupt)
    }

    private static func previousIO(
        _ port: UInt16?, _ run: inout RecordedRun, _ interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply {
        // The exit that led here is not before here, unless instructions followed it.
        let here = run.machine.position
        let isAfter = here.instructions > 0 || here.ring3 != nil
        var end = isAfter ? here.exitCount : here.exitCount &- min(here.exitCount, 1)
        var window: UInt64 = 1 << 12
        while end > 0 {
            let start = end - min(end, window)
            if let found = try find(start...(end - 1), port, run, isLast: true) {
                return try go(to: .position(Position(exitCount: found + 1)), &run, interrupt)
            }
            if interrupt.isRaised { throw DebugError("interrupted") }
            end = start
            window *= 2
        }
        throw DebugError("no \(name(port)) before here")
    }

    private static func name(_ port: UInt16?) -> String {
        port.map { "exit of port 0x\(String($0, radix: 16))" } ?? "exit of port I/O"
    }

    /// The number of the first or last exit of port I/O in a range.
    private static func find(
        _ range: ClosedRange<UInt64>, _ port: UInt16?, _ run: borrowing RecordedRun, isLast: Bool
    ) throws(DebugError) -> UInt64? {
        var selection = ExitSelection(run.reader, range: range)
        var frame = ExitFrame()
        var found: UInt64?
        do throws(TraceError) {
            while try selection.next(into: &frame) {
                guard case .io(_, _, let its, _, _) = frame.detail, port == nil || port == its
                else {
                    continue
                }
                found = frame.number
                if !isLast { break }
            }
        } catch { throw DebugError("\(error)") }
        return found
    }

    private static func lastWrite(
        _ address: UInt64, _ length: UInt64, _ run: inout RecordedRun, _ interrupt: InterruptFlag
    ) throws(DebugError) -> MonitorReply {
        guard let place = run.machine.physicalAddress(GuestVirtualAddress(address)),
            place.rawValue % 4096 + length <= 4096,
            let watchpoint = Watchpoint(place, count: Int(length))
        else {
            throw DebugError(
                "0x\(String(address, radix: 16)): not mapped here, or not in one page")
        }
        let stop: TravelStop
        do throws(ExecutionError) {
            stop = try run.machine.seekLastWrite(watchpoint) { interrupt.isRaised }
        } catch { throw DebugError("\(error)") }
        switch stop {
        case .watchpoint(let hit):
            return MonitorReply(
                "changed at \(run.whereabouts())\n  \(hex(hit.old)) -> \(hex(hit.new))"
                    + "\(try writer(of: hit, run))\n",
                didMove: true)
        case .historyBegin:
            return MonitorReply(
                "nothing changed it since the beginning, where the machine stands now\n",
                didMove: true)
        default: return try arrived(stop, run)
        }
    }

    /// What wrote, where it was not the guest's instruction by itself.
    private static func writer(
        of hit: WatchHit, _ run: borrowing RecordedRun
    ) throws(DebugError) -> String {
        guard let exit = hit.exit else { return "" }
        let start = hit.watchpoint.address.rawValue
        let end = start + UInt64(hit.watchpoint.count)
        func covers(_ address: GuestPhysicalAddress, _ count: Int) -> Bool {
            address.rawValue < end && address.rawValue &+ UInt64(count) > start
        }
        var what: String?
        _ = try frames(exit...exit, run) { frame in
            for event in frame.events {
                switch event {
                case .deviceWrite(let address, let bytes) where covers(address, bytes.count):
                    what = "a device's write to RAM"
                case .completion(let changes):
                    for case .memory(let address, let bytes) in changes
                    where covers(address, bytes.count) {
                        what = "the completion of an instruction that KVM does not emulate"
                    }
                case .stored(let changes):
                    for case .memory(let address, let bytes) in changes
                    where covers(address, bytes.count) {
                        what = "code of which the trace holds only what it came to"
                    }
                default: break
                }
            }
            if what == nil, frame.answerForm != nil { what = "the answer" }
        }
        return what.map { ", by \($0) at exit \(exit)" } ?? ""
    }

    private static func hex(_ bytes: [UInt8]) -> String {
        bytes.prefix(16).map { byte in
            (byte < 16 ? "0" : "") + String(byte, radix: 16)
        }.joined(separator: " ") + (bytes.count > 16 ? " ..." : "")
    }

    private static func checkpoint(_ run: inout RecordedRun) throws(DebugError) -> MonitorReply {
        let isKept: Bool
        do throws(ExecutionError) { isKept = try run.machine.keepHere() } catch {
            throw DebugError("\(error)")
        }
        guard isKept else {
            throw DebugError(
                run.machine.isNamed
                    ? "the machine cannot be kept here: step on, and try there"
                    : "a place without a name cannot be kept: monitor when exact finds its name")
        }
        return MonitorReply("kept \(run.machine.position)\n")
    }

    // MARK: Showing

    private static func around(_ run: borrowing RecordedRun) -> ClosedRange<UInt64> {
        let here = run.machine.position.exitCount
        let first = here - min(here, neighbours)
        return first...max(first, min(here &+ neighbours, run.reader.exitCount) &- 1)
    }

    private static func exits(
        _ range: ClosedRange<UInt64>, _ run: borrowing RecordedRun
    ) throws(DebugError) -> MonitorReply {
        let last = min(range.upperBound, range.lowerBound &+ Limits.listedExits &- 1)
        let stream = OutputStream()
        var text = TraceText(
            stream, style: style, names: run.names, lastExit: run.reader.exitCount)
        let here = run.machine.position
        let count = try frames(range.lowerBound...last, run) { frame in
            // The exit that the machine stands after.
            text.write(frame, mark: frame.number + 1 == here.exitCount ? ">" : nil)
        }
        guard count > 0 else {
            throw DebugError("the trace has exits 0 to \(run.reader.exitCount &- 1)")
        }
        return MonitorReply(stream.text)
    }

    private static func exit(
        _ number: UInt64, _ run: borrowing RecordedRun
    ) throws(DebugError) -> MonitorReply {
        let stream = OutputStream()
        var text = TraceText(
            stream, style: style,
            options: DumpOptions(registers: .all, code: run.sources.code(run.reader.header)),
            names: run.names, lastExit: run.reader.exitCount)
        let count = try frames(number...number, run) { frame in text.write(frame) }
        guard count > 0 else {
            throw DebugError(
                "there is no exit \(number): the trace has \(run.reader.exitCount) exits")
        }
        return MonitorReply(stream.text)
    }

    private static func frames(
        _ range: ClosedRange<UInt64>, _ run: borrowing RecordedRun, _ body: (ExitFrame) -> Void
    ) throws(DebugError) -> Int {
        var selection = ExitSelection(run.reader, range: range, names: run.names)
        var frame = ExitFrame()
        var count = 0
        do throws(TraceError) {
            while try selection.next(into: &frame) {
                body(frame)
                count += 1
            }
        } catch { throw DebugError("\(error)") }
        return count
    }

    private static func disassemble(
        _ address: UInt64?, _ count: UInt64, _ run: borrowing RecordedRun
    ) -> MonitorReply {
        let stream = OutputStream()
        var text = DisassemblyText(stream, style: style, names: run.names)
        text.write(
            run.disassembly(address.map { GuestVirtualAddress($0) }, count: Int(clamping: count)),
            current: run.machine.instructionAddress)
        return MonitorReply(stream.text)
    }

    private static func info(_ run: borrowing RecordedRun) -> MonitorReply {
        let header = run.reader.header
        let frames = run.machine.keyframeSummary
        var lines = ["trace      \(run.reader.path), \(run.reader.exitCount) exits"]
        if let image = header.images.first { lines.append("guest      \(image.name)") }
        if !header.commandLine.isEmpty { lines.append("cmdline    \(header.commandLine)") }
        lines.append("RAM        \(ByteSize.text(header.machine.ramBytes))")
        lines.append("position   \(run.whereabouts())")
        lines.append(
            "keyframes  \(frames.count), \(ByteSize.text(UInt64(frames.byteCount))) of "
                + "\(ByteSize.text(UInt64(frames.byteLimit))), the last at \(frames.last)")
        for difference in run.machine.hostDifferences {
            lines.append(
                "note       \(difference.name) is \(difference.here) here and "
                    + "\(difference.there) in the recording")
        }
        return MonitorReply(lines.joined(separator: "\n") + "\n")
    }
}
