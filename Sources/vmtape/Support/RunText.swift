internal import Execution
internal import Guest
internal import Machine
internal import Trace

/// What people are told of a run that ended.
enum RunText {
    /// Why it ended, as the rest of a sentence that begins with what was done.
    static func ending(_ ending: Ending) -> String {
        let where_ = ending.isInMidFlight ? ", between two exits" : ""
        switch ending.reason {
        case .halted: return "the guest halted"
        case .shutdown: return "the guest's CPU shut down (triple fault)"
        case .reset: return "the guest reset the machine"
        case .debugExit: return "the guest ended with status \(ending.guestStatus ?? 0)"
        case .powerOff: return "the guest switched the machine off"
        case .exitLimit: return "stopped by --max-exits"
        case .timeLimit: return "stopped by --timeout\(where_)"
        case .sizeLimit: return "stopped by --max-size\(where_)"
        case .interrupted: return "stopped by you\(where_)"
        case .internalError: return "KVM could not go on"
        case .failEntry: return "the hardware refused to enter the guest"
        case .unhandledExit: return "an exit that vmtape cannot answer"
        case .stalled where !ending.isInMidFlight:
            return "the guest halted for an interrupt that does not come"
        case .stalled:
            return "the guest waits without an exit for an interrupt, which a virtual clock brings "
                + "at exits alone (--clock host or --stall kick lets it come)"
        case .runnerError: return "vmtape could not go on"
        default: return ending.reason.name
        }
    }

    /// The status of `run` and `record`.
    static func status(_ ending: Ending, guestStatus: Bool) -> Int32 {
        switch ending.reason {
        case .internalError, .failEntry, .unhandledExit, .runnerError: return Status.couldNot
        case .debugExit where guestStatus: return (ending.guestStatus ?? 0) & 0xFF
        case .halted, .powerOff: return Status.done
        default:
            // A guest whose status was asked for and that gave none did not succeed.
            return guestStatus ? Status.no : Status.done
        }
    }

    /// `1,234,567`.
    static func grouped(_ number: UInt64) -> String {
        var text = ""
        let digits = String(number)
        for (index, digit) in digits.enumerated() {
            if index > 0, (digits.count - index) % 3 == 0 { text.append(",") }
            text.append(digit)
        }
        return text
    }

    /// `2.41 s`, `850 ms`.
    static func duration(nanoseconds: UInt64) -> String {
        if nanoseconds < 1_000_000_000 { return "\(nanoseconds / 1_000_000) ms" }
        return "\(decimal(Double(nanoseconds) / 1e9)) s"
    }

    /// Two digits after the point.
    static func decimal(_ value: Double) -> String {
        guard value.isFinite, value.magnitude < 1e15 else { return "-" }
        let hundredths = Int64((value * 100).rounded())
        let magnitude = hundredths.magnitude
        let fraction = magnitude % 100
        return
            "\(hundredths < 0 ? "-" : "")\(magnitude / 100).\(fraction < 10 ? "0" : "")\(fraction)"
    }

    /// What the CPU could not go on with: one line, then the instruction and the registers.
    static func fault(
        _ fault: CPUFault, registers: GeneralRegisters, system: SystemRegisters
    ) -> [String] {
        var lines = [fault.summary]
        if let address = fault.instructionAddress {
            let bytes = fault.instructionBytes.map { hex(UInt64($0), digits: 2) }
                .joined(separator: " ")
            let text = fault.disassembly ?? (bytes.isEmpty ? "(unreadable)" : "(bad)")
            lines.append("  at 0x\(hex(address.rawValue, digits: 16)): \(bytes)  \(text)")
        }
        lines.append("  mode \(system.mode.rawValue), cpl \(system.cpl)")
        lines += registerLines(registers, system).map { "  \($0)" }
        return lines
    }

    /// The registers, four a line, and the system registers that matter most.
    static func registerLines(
        _ registers: GeneralRegisters, _ system: SystemRegisters
    ) -> [String] {
        var cells = Register.allCases.map { register in
            padded(register.name, 6) + " " + hex(registers[register], digits: 16)
        }
        for control in [SystemRegisters.ControlName.cr0, .cr2, .cr3, .cr4, .efer] {
            cells.append(padded(control.name, 6) + " " + hex(system[control], digits: 16))
        }
        var lines: [String] = []
        for start in stride(from: 0, to: cells.count, by: 3) {
            lines.append(cells[start..<min(start + 3, cells.count)].joined(separator: "  "))
        }
        return lines
    }

    /// Lower-case hexadecimal with at least so many digits.
    static func hex(_ value: UInt64, digits: Int) -> String {
        let text = String(value, radix: 16)
        return String(repeating: "0", count: max(0, digits - text.count)) + text
    }

    private static func padded(_ text: String, _ width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }
}
