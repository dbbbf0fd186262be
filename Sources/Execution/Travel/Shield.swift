internal import Glibc
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Pages of guest memory that KVM cannot reach while the guest runs: a stretch of the run that ends
/// as it did without the shield has touched none of them.
///
/// The pages are taken from KVM by taking all rights to this process's mapping of them (mprotect(2)),
/// and given back before anything else looks at memory. An emulated instruction that comes to one is
/// an MMIO exit then, anything else an error (EFAULT). A page walk, or the delivery of an event, is
/// refused, and the guest gets a fault that it did not get before: so the end must be compared.
struct Shield {
    private var pages: [GuestPhysicalAddress] = []

    private static let pageBytes = 4096

    /// Nil where what is to be shielded is not all memory.
    init?(_ watched: [Watchpoint], _ memory: borrowing GuestMemory) {
        for watchpoint in watched {
            let first = watchpoint.address.rawValue / 4096
            let last = (watchpoint.address.rawValue + UInt64(watchpoint.count) - 1) / 4096
            for number in first...last {
                let page = GuestPhysicalAddress(number * 4096)
                guard !pages.contains(page) else { continue }
                // SAFETY: only whether there is a host address is asked.
                guard unsafe memory.host(page, count: Self.pageBytes) != nil else { return nil }
                pages.append(page)
            }
        }
    }

    /// Runs the guest; nil where it came to the shield, or may have: its state is of no use then.
    func run<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ other: inout Exit, _ memory: borrowing GuestMemory
    ) throws(KVMError) -> RunStep? {
        guard setRights(PROT_NONE, memory) else { return nil }
        defer { _ = setRights(PROT_READ | PROT_WRITE, memory) }
        let step: RunStep
        do throws(KVMError) { step = try cpu.run(other: &other) } catch {
            if case .request(_, EFAULT) = error { return nil }
            throw error
        }
        if case .mmio(let access) = step, covers(access) { return nil }
        return step
    }

    private func covers(_ access: MMIO) -> Bool {
        pages.contains {
            access.address.rawValue &+ UInt64(access.size) > $0.rawValue
                && access.address.rawValue < $0.rawValue + UInt64(Self.pageBytes)
        }
    }

    private func setRights(_ rights: Int32, _ memory: borrowing GuestMemory) -> Bool {
        for page in pages {
            // SAFETY: a whole page that this process mapped for the guest, which nobody else uses
            // until the rights are given back.
            guard let host = unsafe memory.host(page, count: Self.pageBytes),
                unsafe mprotect(host, Self.pageBytes, rights) == 0
            else { return false }
        }
        return true
    }
}

extension TimeMachine {
    /// Whether memory that is watched for reads may have been touched between a position and where
    /// the machine stands. Where it was not, the machine stands there again.
    mutating func mayBeRead(
        _ watched: [Watchpoint], since start: Position
    ) throws(ExecutionError) -> Bool {
        let reads = watched.filter { $0.kind != .change }
        guard !reads.isEmpty, position > start else { return false }
        // Ring 3 is stepped to its places, which the shield does not see.
        guard start.ring3 == nil, position.ring3 == nil else { return true }
        // Without a counter the way back to the end would be stepped.
        guard hasCounter, usesShield, let shield = Shield(reads, machine.memory) else {
            return true
        }
        let end = position
        let isEnd = ending != nil
        let digest = try stateDigest()
        guard case .reached = try go(to: start, isInterrupted: { false }), position == start else {
            return true
        }
        self.shield = shield
        defer { self.shield = nil }
        let arrival = try forward(
            Course(limit: isEnd ? nil : end, keepsFrames: false), isInterrupted: { false })
        switch arrival {
        case .reached, .historyEnd:
            if position == end {
                let now = try stateDigest()
                if now == digest { return false }
            }
        default: break
        }
        // What the guest did behind the shield is nothing to go on from.
        try restore(keyframes.index(atOrBefore: start))
        return true
    }
}
