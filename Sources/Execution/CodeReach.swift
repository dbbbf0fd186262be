internal import Disassembly
internal import Guest
internal import Machine

/// How near instructions are to a place in the guest's code: a walk along its flow, from the
/// instruction at RIP and from the return addresses on the stack, by direct jumps, branches and
/// calls, up to instructions that exit.
///
/// A ranking and no proof: indirect calls lead nowhere, and what looks like a return address may be
/// none.
struct CodeReach {
    /// Instructions to walk from RIP, and from each return address.
    private static let stepsFromRIP = 400
    private static let stepsFromReturn = 120
    /// Return addresses to walk from, and words of the stack to look for them in.
    private static let returnAddresses = 8
    private static let stackWords = 96
    /// What a return is taken to be away.
    private static let distanceOfReturn = 64
    /// Bytes of code read at a time.
    private static let windowLength = 256

    private let disassembler: Disassembler
    private let system: SystemRegisters
    private var visited: Set<UInt64> = []
    private var window: [UInt8] = []
    private var windowStart: UInt64 = 0
    /// The distance of each wanted address that was reached.
    private(set) var distances: [UInt64: Int] = [:]

    /// Walks from a place.
    ///
    /// - Parameter wanted: linear addresses whose distance is asked for.
    init(
        from registers: GeneralRegisters, system: SystemRegisters, memory: borrowing GuestMemory,
        wanted: Set<UInt64>
    ) {
        disassembler = Disassembler(for: system)
        self.system = system
        walk(
            from: registers.rip, steps: Self.stepsFromRIP, distance: 0, wanted: wanted,
            memory: memory)
        var order = 1
        for address in returnAddresses(registers, memory) {
            walk(
                from: address, steps: Self.stepsFromReturn,
                distance: Self.distanceOfReturn * order, wanted: wanted, memory: memory)
            order += 1
        }
    }

    /// Breadth first over stretches of code without a branch.
    private mutating func walk(
        from start: UInt64, steps: Int, distance: Int, wanted: Set<UInt64>,
        memory: borrowing GuestMemory
    ) {
        var queue = [(address: start, distance: distance)]
        var next = 0
        var left = steps
        // The instruction that exited is passed, wherever RIP stands in its exit.
        var isFirst = distance == 0
        while next < queue.count {
            var (address, distance) = queue[next]
            next += 1
            stretch: while left > 0, visited.insert(address).inserted {
                left -= 1
                let linear = self.linear(address)
                if wanted.contains(linear) {
                    distances[linear] = min(distances[linear] ?? .max, distance)
                }
                load(linear, memory)
                guard
                    let flow = disassembler.flow(
                        window.span, at: Int(truncatingIfNeeded: linear &- windowStart),
                        address: address)
                else { break }
                distance += 1
                if let target = flow.target { queue.append((target, distance)) }
                switch flow.kind {
                case .portIn, .portOut, .portInString, .portOutString, .hlt:
                    if !isFirst { break stretch }
                default: break
                }
                isFirst = false
                guard flow.fallsThrough else { break }
                address &+= UInt64(flow.length)
            }
        }
    }

    private func linear(_ address: UInt64) -> UInt64 {
        system.linearAddress(ofCode: address).rawValue
    }

    /// Makes the window hold the longest instruction at an address, as far as it can be read.
    private mutating func load(_ linear: UInt64, _ memory: borrowing GuestMemory) {
        let offset = linear &- windowStart
        let end = UInt64(window.count)
        if offset < end, end - offset >= UInt64(Disassembler.maximumLength) { return }
        window = PageWalk.read(
            GuestVirtualAddress(linear), count: Self.windowLength, system: system, memory: memory)
        windowStart = linear
    }

    /// Words on the stack that stand behind a call, the nearest first.
    private func returnAddresses(
        _ registers: GeneralRegisters, _ memory: borrowing GuestMemory
    ) -> [UInt64] {
        let width: Int
        switch disassembler.width {
        case .real16, .protected16: width = 2
        case .protected32: width = 4
        case .long64: width = 8
        }
        let pointerMask: UInt64 =
            system.mode == .long ? .max : system[.ss].db ? 0xFFFF_FFFF : 0xFFFF
        let base = system.mode == .long ? 0 : system[.ss].base
        let stack = PageWalk.read(
            GuestVirtualAddress(base &+ registers[.rsp] & pointerMask),
            count: Self.stackWords * width, system: system, memory: memory)
        var found: [UInt64] = []
        var at = 0
        while at + width <= stack.count, found.count < Self.returnAddresses {
            var word: UInt64 = 0
            for index in 0..<width { word |= UInt64(stack[at + index]) << UInt64(index * 8) }
            if isBehindCall(word, memory), !found.contains(word) { found.append(word) }
            at += width
        }
        return found
    }

    /// Whether a call ends right before.
    private func isBehindCall(_ address: UInt64, _ memory: borrowing GuestMemory) -> Bool {
        guard address >= 16 else { return false }
        return PageWalk.isBehindCall(
            GuestVirtualAddress(linear(address)), disassembler, system: system, memory: memory)
    }
}
