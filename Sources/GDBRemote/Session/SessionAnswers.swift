internal import Machine

// What each command gets for an answer.
extension Session {
    mutating func answer<Target: DebugTarget & ~Copyable>(
        _ command: Command, _ target: inout Target
    ) -> Next {
        switch command {
        case .resume, .restart, .restartAndReport, .monitor:
            return answerWork(command, &target)
        case .detach:
            close(&target)
            sendOK()
            return .end(judged(.detached))
        case .kill: return kill()
        case .killAndReport:
            sendOK()
            return kill()
        case .readRegisters, .writeRegisters, .readRegister, .writeRegister:
            answerRegisters(command, &target)
        case .readMemory(let address, let count, let isBinary):
            readMemory(address, count, isBinary: isBinary, &target)
        case .writeMemory(let address, let bytes): writeMemory(address, bytes, &target)
        case .insert(let breakpoint): insert(breakpoint, &target)
        case .remove(let breakpoint): remove(breakpoint, &target)
        case .setThread, .isAlive, .currentThread, .firstThreads, .moreThreads,
            .threadInformation:
            answerThreads(command, &target)
        case .transfer(let object, let offset, let count):
            transfer(object, offset: offset, count: count, &target)
        case .file(let request): answerFile(request, target.executable)
        case .stopReason, .stopThreads:
            report(StopEvent(.step, thread: target.currentThread), &target)
        default: answerSimple(command, &target)
        }
        return .wait
    }

    private mutating func kill() -> Next {
        isKilled = true
        return isExtended ? .wait : .end(.killed)
    }

    private mutating func answerSimple<Target: DebugTarget & ~Copyable>(
        _ command: Command, _ target: inout Target
    ) {
        switch command {
        case .supported(let features): answerSupported(features, &target)
        case .startNoAcknowledgement: stopAcknowledging()
        case .enableExtendedMode:
            isExtended = true
            sendOK()
        case .symbolLookup: sendOK()
        case .resumeKinds: send("vCont;c;C;s;S;t;r")
        // gdb then detaches when it quits, and does not kill.
        case .isAttached: send("1")
        case .memorySpace: send(space == .physical ? "1" : "0")
        case .setMemorySpace(let space):
            self.space = space
            sendOK()
        default: send("")
        }
    }

    private mutating func answerSupported<Target: DebugTarget & ~Copyable>(
        _ features: [String], _ target: inout Target
    ) {
        abilities.softwareBreakpoints = features.contains("swbreak+")
        abilities.hardwareBreakpoints = features.contains("hwbreak+")
        showsErrorText = features.contains("error-message+")
        var answer = "PacketSize=\(String(Limits.packet, radix: 16))"
        answer += ";QStartNoAckMode+;swbreak+;hwbreak+;vContSupported+;ReverseStep+"
        answer += ";ReverseContinue+;binary-upload+;qXfer:features:read+"
        if !target.memoryMap.isEmpty { answer += ";qXfer:memory-map:read+" }
        if target.executable != nil { answer += ";qXfer:exec-file:read+" }
        send(answer)
    }

    // MARK: Work

    private mutating func answerWork<Target: DebugTarget & ~Copyable>(
        _ command: Command, _ target: inout Target
    ) -> Next {
        switch command {
        case .resume(let action, let named):
            let choice = named == .any ? resumingThread : named
            guard let thread = thread(choice, &target) else {
                fail(DebugError("there is no such thread"))
                return .wait
            }
            return .work(.resume(action, thread))
        case .restart: return .work(.restart(reports: false))
        case .restartAndReport: return .work(.restart(reports: true))
        case .monitor(let text): return answerMonitor(text)
        default: return .wait
        }
    }

    private mutating func answerMonitor(_ text: [UInt8]) -> Next {
        showUnshown()
        do throws(DebugError) {
            switch try MonitorParser.parse(text) {
            case .command(let command): return .work(.monitor(command))
            case .help: show(MonitorHelp.text)
            case .hints(let on): showsHints = on
            case .console(let on): showsConsole = on
            }
            sendOK()
        } catch { failMonitor(error) }
        return .wait
    }

    private mutating func failMonitor(_ error: DebugError) {
        if !showsErrorText { show("\(error.description)\n") }
        failToRead(error)
    }

    /// Does what may take long, and answers.
    mutating func perform<Target: DebugTarget & ~Copyable>(
        _ work: Work, _ target: inout Target, until interrupt: InterruptFlag
    ) {
        switch work {
        case .resume(let action, let thread):
            do throws(DebugError) {
                let event = try target.resume(action, thread: thread, until: interrupt)
                if showsConsole { showConsole(try target.printed()) }
                tell(event)
                warnOfLongMode(of: event.thread, &target)
                report(event, &target)
            } catch { fail(error) }
        case .restart(let reports):
            isKilled = false
            do throws(DebugError) {
                _ = try target.monitor(.goTo(.position(.begin)), until: interrupt)
                if reports { report(StopEvent(.step, thread: target.currentThread), &target) }
            } catch { if reports { fail(error) } }
        case .monitor(let command):
            do throws(DebugError) {
                let reply = try target.monitor(command, until: interrupt)
                show(reply.text)
                if !reply.text.isEmpty, !reply.text.hasSuffix("\n") { show("\n") }
                if reply.text.utf8.count > Limits.monitorReply { show("\n(cut: too long)\n") }
                if reply.didMove, showsHints { show(MonitorHelp.moved) }
                sendOK()
            } catch { failMonitor(error) }
        }
    }

    /// The last of what the guest printed: a stop is not to take long for it.
    private mutating func showConsole(_ printed: [UInt8]) {
        let cut = printed.count - Limits.monitorReply
        if cut > 0 { show("(\(cut) bytes of the guest's output left out)\n") }
        show(printed.suffix(Limits.monitorReply))
    }

    private mutating func tell(_ event: StopEvent) {
        showUnshown()
        if !event.note.isEmpty { show(event.note + "\n") }
        if case .divergence(let text) = event.reason { show(text + "\n") }
    }

    /// Once: 32-bit registers of a CPU in long mode are only half of it.
    private mutating func warnOfLongMode<Target: DebugTarget & ~Copyable>(
        of thread: DebugThread.ID, _ target: inout Target
    ) {
        guard layout.isNarrow, !hasWarnedOfLongMode,
            let mode = try? target.registers(of: thread).system?.mode,
            mode == .long || mode == .compatibility
        else { return }
        hasWarnedOfLongMode = true
        show(
            "The CPU is in long mode here, and the debugger shows 32-bit registers: "
                + "detach and connect again.\n")
    }

    /// A stop reply, with the registers that a debugger asks for first.
    private mutating func report<Target: DebugTarget & ~Copyable>(
        _ event: StopEvent, _ target: inout Target
    ) {
        var reply = StopReply.text(event, abilities)
        do throws(DebugError) {
            let registers = try target.registers(of: event.thread)
            for number in layout.expedited {
                let register = layout.registers[number]
                reply += HexText.bytes([UInt8(number)]) + [0x3A]
                reply += RegisterCoding.text(of: register, in: registers) + [0x3B]
            }
        } catch {
            // The debugger asks for them, and gets the error then.
        }
        send(reply)
    }

    // MARK: Threads

    /// The vCPU that is meant; nil where there is none of that number.
    func thread<Target: DebugTarget & ~Copyable>(
        _ choice: Command.ThreadChoice, _ target: inout Target
    ) -> DebugThread.ID? {
        guard case .one(let id) = choice else { return target.currentThread }
        return target.threads.contains { $0.id == id } ? id : nil
    }

    private mutating func answerThreads<Target: DebugTarget & ~Copyable>(
        _ command: Command, _ target: inout Target
    ) {
        switch command {
        case .setThread(let use, let choice):
            guard thread(choice, &target) != nil else {
                return fail(DebugError("there is no such thread"))
            }
            switch use {
            case .general: generalThread = choice
            case .resuming: resumingThread = choice
            }
            sendOK()
        case .isAlive(let choice):
            if thread(choice, &target) != nil {
                sendOK()
            } else {
                fail(DebugError("there is no such thread"))
            }
        case .currentThread:
            send(Array("QC".utf8) + HexText.number(UInt64(target.currentThread)))
        case .firstThreads:
            let ids = target.threads.prefix(Limits.threads).map { String($0.id, radix: 16) }
            send("m" + ids.joined(separator: ","))
        case .threadInformation(let choice):
            let id = thread(choice, &target)
            let name = target.threads.first { $0.id == id }?.name ?? "none"
            send(HexText.bytes(Array(name.utf8.prefix(200))))
        default: send("l")
        }
    }
}
