internal import Glibc
internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// Pages of guest memory that KVM cannot reach while the guest runs: a stretch of the run that ends
/// as it did without the shield has touched none of them. Where only changes are watched for, reads
/// are no touch.
///
/// The pages are taken from KVM by taking the rights to this process's mapping of them (mprotect(2)),
/// and given back before anything else looks at memory. An emulated instruction that comes to one is
/// an MMIO exit then; anything else is an error (EFAULT), and leaves the guest before the instruction.
/// A page walk, or the delivery of an event, is refused, and the guest gets a fault that it did not
/// get before.
struct Shield: Equatable, Sendable {
    private struct Page: Equatable {
        var address: GuestPhysicalAddress
        /// Only its changes are watched for.
        var isReadable: Bool
    }

    private var pages: [Page] = []

    private static let pageBytes = 4096

    /// Nil where what is to be shielded is not all memory.
    init?(_ watched: [Watchpoint], _ memory: borrowing GuestMemory) {
        for watchpoint in watched {
            let first = watchpoint.address.rawValue / 4096
            let last = (watchpoint.address.rawValue + UInt64(watchpoint.count) - 1) / 4096
            for number in first...last {
                let page = Page(
                    address: GuestPhysicalAddress(number * 4096),
                    isReadable: watchpoint.kind == .change)
                if let index = pages.firstIndex(where: { $0.address == page.address }) {
                    if !page.isReadable { pages[index].isReadable = false }
                    continue
                }
                // SAFETY: only whether there is a host address is asked.
                guard unsafe memory.host(page.address, count: Self.pageBytes) != nil else {
                    return nil
                }
                pages.append(page)
            }
        }
    }

    /// Runs the guest; nil where it came to the shield, or may have: its state is of no use then.
    func run<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ other: inout Exit, _ memory: borrowing GuestMemory
    ) throws(KVMError) -> RunStep? {
        let step = try enter(&cpu, memory) { cpu throws(KVMError) in try cpu.run(other: &other) }
        switch step {
        case .mmio(let access) where covers(access): return nil
        case .other: if case .memoryFault = other { return nil }
        default: break
        }
        return step
    }

    /// The same, of all exits; nil where the guest stands before what would touch a page. An access by
    /// KVM's emulator, for which it is too late, is the exit that it is (``covers(_:)``).
    func run<CPU: Processor & ~Copyable>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory
    ) throws(KVMError) -> RunResult? {
        let result = try enter(&cpu, memory) { cpu throws(KVMError) in try cpu.run() }
        if case .exit(.memoryFault) = result { return nil }
        return result
    }

    /// Enters the guest without the pages; nil where KVM could not go on.
    private func enter<CPU: Processor & ~Copyable, Result>(
        _ cpu: inout CPU, _ memory: borrowing GuestMemory,
        _ body: (inout CPU) throws(KVMError) -> Result
    ) throws(KVMError) -> Result? {
        guard takeRights(memory) else { return nil }
        defer { giveRights(memory) }
        do throws(KVMError) { return try body(&cpu) } catch {
            if case .request(_, EFAULT) = error { return nil }
            throw error
        }
    }

    /// Whether an access is one to a page.
    func covers(_ access: MMIO) -> Bool {
        pages.contains {
            access.address.rawValue &+ UInt64(access.size) > $0.address.rawValue
                && access.address.rawValue < $0.address.rawValue + UInt64(Self.pageBytes)
        }
    }

    private func takeRights(_ memory: borrowing GuestMemory) -> Bool {
        for page in pages where !set(page.isReadable ? PROT_READ : PROT_NONE, page, memory) {
            giveRights(memory)
            return false
        }
        return true
    }

    private func giveRights(_ memory: borrowing GuestMemory) {
        for page in pages { _ = set(PROT_READ | PROT_WRITE, page, memory) }
    }

    private func set(_ rights: Int32, _ page: Page, _ memory: borrowing GuestMemory) -> Bool {
        // SAFETY: a whole page that this process mapped for the guest, which nobody else uses until
        // the rights are given back.
        guard let host = unsafe memory.host(page.address, count: Self.pageBytes) else {
            return false
        }
        return unsafe mprotect(host, Self.pageBytes, rights) == 0
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
