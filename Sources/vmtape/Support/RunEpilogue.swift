internal import Devices
internal import Execution
internal import Glibc

/// What run and record say on stderr when the guest has ended, before any summary.
enum RunEpilogue {
    static func tell(
        _ report: RunReport, unclaimed: UnclaimedAccesses, outputFailure: DeviceError?
    ) {
        if let outputFailure { Message.note("\(outputFailure); the guest's output is incomplete") }
        if let fault = report.fault {
            let lines = RunText.fault(
                fault, registers: report.registers, system: report.systemRegisters)
            for (index, line) in lines.enumerated() {
                if index == 0 { Message.error(line) } else { Message.line(line) }
            }
        }
        if unclaimed.total > 0 {
            Message.note(
                "\(RunText.grouped(unclaimed.total)) accesses to ports or addresses that no "
                    + "device claims read as ones: \(places(unclaimed))")
        }
    }

    /// The first few places, in order.
    private static func places(_ unclaimed: UnclaimedAccesses) -> String {
        var names: [String] = []
        for entry in unclaimed.entries {
            let name =
                (entry.space == .port ? "port 0x" : "0x") + String(entry.address, radix: 16)
            if names.last != name { names.append(name) }
        }
        let shown = names.prefix(6).joined(separator: ", ")
        return names.count > 6 ? "\(shown) and \(names.count - 6) more" : shown
    }
}
