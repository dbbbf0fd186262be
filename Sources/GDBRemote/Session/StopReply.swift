/// Stop replies (GDB manual, "Stop Reply Packets").
enum StopReply {
    /// What the debugger said that it understands in a stop reply.
    struct Abilities: Equatable {
        var softwareBreakpoints = false
        var hardwareBreakpoints = false
    }

    /// The text of a stop reply: signal, reason, thread.
    static func text(_ event: StopEvent, _ abilities: Abilities) -> [UInt8] {
        var text = Array((event.reason == .interrupted ? "T02" : "T05").utf8)
        text += Array(reason(event.reason, abilities).utf8)
        text += Array("thread:".utf8) + HexText.number(UInt64(event.thread)) + [0x3B]
        return text
    }

    private static func reason(_ reason: StopReason, _ abilities: Abilities) -> String {
        switch reason {
        case .step, .interrupted: return ""
        case .breakpoint(.software): return abilities.softwareBreakpoints ? "swbreak:;" : ""
        case .breakpoint: return abilities.hardwareBreakpoints ? "hwbreak:;" : ""
        case .watchpoint(let kind, let address):
            let name =
                switch kind {
                case .read: "rwatch"
                case .access: "awatch"
                default: "watch"
                }
            return "\(name):\(String(address, radix: 16));"
        case .historyBegin: return "replaylog:begin;"
        // A replay that left the recording has no future either.
        case .historyEnd, .divergence: return "replaylog:end;"
        }
    }
}
