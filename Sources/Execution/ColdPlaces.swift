internal import Disassembly
internal import Guest
internal import Machine

/// Where a landmark may stand so that a replay does not pass it too often: the ends of
/// the loops around a place, and the places to which its callers return.
///
/// Only hints: a wrong one costs time, and never correctness.
enum ColdPlaces {
    private static let codeBytes = 4096
    private static let instructionLimit = 600
    private static let stackWords = 64
    private static let callerLimit = 6
    /// How many places are tried.
    static let limit = 24

    /// Places that are passed on the way out of the loops and functions around RIP.
    static func around(
        _ registers: GeneralRegisters, system: SystemRegisters, memory: borrowing GuestMemory
    ) -> [UInt64] {
        var places: [UInt64] = []
        let origins = [registers.rip] + callers(registers, system: system, memory: memory)
        for (index, origin) in origins.enumerated() {
            if index > 0 { add(origin, to: &places) }
            for place in ends(around: origin, system: system, memory: memory) {
                add(place, to: &places)
            }
        }
        return places
    }

    private static func add(_ place: UInt64, to places: inout [UInt64]) {
        guard places.count < limit, !places.contains(place) else { return }
        places.append(place)
    }

    /// The jumps back over a place and the instructions behind them, inner loops first.
    private static func ends(
        around origin: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) -> [UInt64] {
        let code = PageWalk.read(
            GuestVirtualAddress(origin), count: codeBytes, system: system, memory: memory)
        let disassembler = Disassembler(for: system)
        var places: [UInt64] = []
        var at = 0
        var reached: UInt64 = origin
        for _ in 0..<instructionLimit where at < code.count {
            let address = origin &+ UInt64(at)
            guard
                let instruction = disassembler.decode(
                    Array(code[at..<min(code.count, at + Disassembler.maximumLength)]),
                    at: GuestVirtualAddress(address)), instruction.kind != .bad
            else { break }
            at += instruction.length
            let isBranch =
                instruction.mnemonic.hasPrefix("j") || instruction.mnemonic.hasPrefix("loop")
            if isBranch, let target = instruction.target?.rawValue {
                if target <= origin {
                    places.append(address)
                    if instruction.kind != .jmp {
                        places.append(address &+ UInt64(instruction.length))
                    }
                } else {
                    reached = max(reached, target)
                }
            }
            // Behind an end that nothing jumps over is other code.
            if instruction.kind == .ret || instruction.kind == .jmp,
                reached <= address
            {
                break
            }
        }
        return places
    }

    /// What on the stack looks like a return address: code of the same ring behind a CALL.
    private static func callers(
        _ registers: GeneralRegisters, system: SystemRegisters, memory: borrowing GuestMemory
    ) -> [UInt64] {
        guard system.mode == .long else { return [] }
        let disassembler = Disassembler(for: system)
        let stack = PageWalk.read(
            GuestVirtualAddress(registers[.rsp]), count: stackWords * 8, system: system,
            memory: memory)
        var found: [UInt64] = []
        for word in 0..<(stack.count / 8) where found.count < callerLimit {
            var value: UInt64 = 0
            for byte in (0..<8).reversed() { value = value << 8 | UInt64(stack[word * 8 + byte]) }
            guard value > 16, !found.contains(value),
                isCode(value, system: system, memory: memory),
                PageWalk.isBehindCall(
                    GuestVirtualAddress(value), disassembler, system: system, memory: memory)
            else { continue }
            found.append(value)
        }
        return found
    }

    private static func isCode(
        _ address: UInt64, system: SystemRegisters, memory: borrowing GuestMemory
    ) -> Bool {
        guard system.cpl == 0 else {
            return Ring3Stops.place(address, system: system, memory: memory) != nil
        }
        let mapping = PageWalk.mapping(
            of: GuestVirtualAddress(address), system: system, memory: memory)
        return mapping.map { !$0.isUser || system[.cr0] & ControlBits.paging == 0 } ?? false
    }
}
