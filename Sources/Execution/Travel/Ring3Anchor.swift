internal import Guest
internal import KVM
internal import Machine
internal import Trace

/// A place in a stretch of ring 3, kept whole in memory, of which nobody knows how many steps it is
/// from where the stretch begins: a kick found it. It is good while the session lasts, and no keyframe:
/// those are in the order of their names.
struct Ring3Anchor: Sendable {
    var cpu: CPUCheckpoint
    var standing: Standing
    /// What was written since the stretch's beginning, by page slot, as it is here. Pages that did not
    /// change between two anchors are shared.
    var pages: [Int: PageCopy]
}

extension TimeMachine {
    /// Keeps the place in ring 3 where the machine stands, nothing being pending.
    mutating func anchor() throws(ExecutionError) -> Ring3Anchor {
        _ = try settle()
        try machine.collectWrites()
        let reader = anchorReader()
        for slot in machine.writes?.take(reader) ?? [] {
            guard let host = unsafe machine.memory.host(slot: slot) else { continue }
            // SAFETY: a slot's host pointer covers its 4096 bytes.
            if let page = anchorPages[slot], try unsafe page.isEqual(host) { continue }
            anchorPages[slot] = unsafe PageCopy(host, keyframes.tally)
        }
        let cpu = try kvm { () throws(KVMError) in try machine.cpu.checkpoint() }
        let isExact = standing == .atExit || standing == .inRing3
        return Ring3Anchor(
            cpu: cpu, standing: isExact ? standing : .afterStop, pages: anchorPages)
    }

    /// Puts the machine back to an anchor of the stretch that begins at a place. Steps are counted from
    /// the anchor then, and the place has neither name nor way until somebody says so.
    mutating func stand(
        at anchor: Ring3Anchor, after entry: Position
    ) throws(ExecutionError) {
        let index = keyframes.index(atOrBefore: entry)
        var isThere = false
        if keyframes.frames[index].position == entry {
            try restore(index, andTo: anchor)
            // A keyframe of a file that is damaged is another one.
            isThere = position == entry
        }
        if !isThere {
            try go(to: entry)
            try restorePages(of: anchor)
            try kvm { () throws(KVMError) in try machine.cpu.restore(anchor.cpu) }
        }
        _ = machine.cpu.acknowledgeKick()
        standing = anchor.standing
        isAtTouch = false
        ring3Steps = 0
    }

    /// Memory where a stretch begins becomes what it is at an anchor of it.
    mutating func restorePages(of anchor: Ring3Anchor) throws(ExecutionError) {
        try beginAnchors()
        for slot in anchor.pages.keys.sorted() {
            guard let page = anchor.pages[slot], let host = unsafe machine.memory.host(slot: slot),
                let address = machine.memory.pageSlots.address(ofSlot: slot)
            else { continue }
            // SAFETY: as above.
            guard try unsafe !page.isEqual(host) else { continue }
            try unsafe page.copy(to: host)
            machine.memory.markWritten(address, count: PageCopy.pageBytes)
        }
        anchorPages = anchor.pages
    }

    /// What is written from here on is what anchors keep: the machine stands where a stretch begins.
    mutating func beginAnchors() throws(ExecutionError) {
        try machine.collectWrites()
        let reader = anchorReader()
        _ = machine.writes?.take(reader)
        anchorPages = [:]
    }

    private mutating func anchorReader() -> DirtyPages.Reader {
        if let reader = anchorWrites { return reader }
        let reader = machine.addWritesReader()
        anchorWrites = reader
        return reader
    }
}
