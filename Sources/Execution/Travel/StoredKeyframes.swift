internal import Guest
internal import KVM
internal import Machine
public import Trace

// Keyframes in a file, from one session to the next (FORMAT.md, "Keyframe file").

/// What became of a session's keyframe file.
public struct KeyframeFileSummary: Equatable, Sendable {
    /// Keyframes in it.
    public var count: Int
    /// Its length in bytes.
    public var fileBytes: UInt64
}

extension TimeMachine {
    /// The rules by which keyframes are made and kept; a file of others is of no use.
    private static let codingVersion = "2"

    /// What keyframes depend on beside the trace: everything known of how this host behaves, its
    /// kernel, and how instructions are counted.
    private func keyframeKey() throws(ExecutionError) -> KeyframeKey {
        var conditions = [
            Property("keyframes", Self.codingVersion),
            Property("loader", "\(GuestImageRecord.loaderVersion)"),
            Property("counter", hasCounter ? "yes" : "no"),
        ]
        for fact in hostFacts.facts
        where fact.weight == .behaviour || Self.comparedFacts.contains(fact.name) {
            conditions.append(Property(fact.name, fact.value))
        }
        return try trace { () throws(TraceError) in
            try KeyframeKey(reader, conditions: conditions)
        }
    }

    /// Descriptions that decide how instructions are counted and what the XSAVE area means.
    private static let comparedFacts = ["host.kernel", "host.cpu.vendor", "host.cpu.model"]

    /// Takes over the keyframes of a file, which were made in another session of this trace on this
    /// host. To be called before the machine moves.
    ///
    /// The file is not believed: blocks are checked when they are read, and RAM by its digest each time
    /// that it is restored from them. Where that fails the machine goes on without the file, and
    /// ``keyframeFileProblem`` says why.
    /// - Throws: what ``Trace/KeyframeFile`` says against it; nothing has changed then.
    public mutating func useKeyframes(
        of path: String
    ) throws(KeyframeFileError) -> KeyframeFileSummary {
        precondition(position == .begin && keyframes.frames.count == 1)
        func unusable(_ what: String) -> KeyframeFileError {
            KeyframeFileError(kind: .unusable, file: path, message: what)
        }
        let key: KeyframeKey
        do throws(ExecutionError) { key = try keyframeKey() } catch {
            throw unusable("no keyframe file can be used: \(error)")
        }
        let file = try KeyframeFile(path: path, key: key)
        var frames: [Keyframe] = []
        var sites = keyframes.frames[0].loop.sites
        for record in file.records {
            guard
                let frame = KeyframeCoding.frame(record, like: keyframes.frames[0], sites: sites),
                let rewritten = KeyframeCoding.sites(record),
                record.position.exitCount <= reader.exitCount,
                record.pages.allSatisfy({ isRAM($0.slot) }),
                record.written.allSatisfy({ isRAM($0) })
            else { throw unusable("the keyframe file is of another machine than the trace's") }
            sites = frame.loop.sites
            loop.rewrittenSites += rewritten.filter { !loop.rewrittenSites.contains($0) }
            frames.append(frame)
        }
        do throws(ExecutionError) { try keyframes.adopt(frames, of: file, &machine) } catch {
            throw unusable("\(error)")
        }
        return KeyframeFileSummary(count: file.records.count, fileBytes: file.fileBytes)
    }

    private func isRAM(_ slot: UInt32) -> Bool {
        machine.memory.pageSlots.address(ofSlot: Int(slot)) != nil
    }

    /// Writes all keyframes to a file, with mode 0600, replacing what has its name.
    public mutating func saveKeyframes(
        to path: String
    ) throws(ExecutionError) -> KeyframeFileSummary {
        let key = try keyframeKey()
        do throws(ExecutionError) {
            return try keyframes.save(
                to: path, key: key, rewritten: loop.rewrittenSites, machine.memory)
        } catch {
            // What of it is in a file may be damaged: what is in memory can be written next time.
            if keyframes.hasFile, case .trace = error { try giveUpFile(error) }
            throw error
        }
    }

    /// There are keyframes that are in no file.
    public var hasUnsavedKeyframes: Bool { keyframes.hasUnsaved }

    /// Goes on without the keyframes of the file, and without those that stand on them.
    mutating func giveUpFile(_ problem: ExecutionError) throws(ExecutionError) {
        keyframeFileProblem = "\(problem)"
        try keyframes.forgetFile(&machine)
    }

    /// Puts memory back to a keyframe, or to the first one where a file turns out to be damaged;
    /// gives the one that it was.
    mutating func restoreMemory(_ index: Int) throws(ExecutionError) -> Int {
        do throws(ExecutionError) {
            try keyframes.restoreMemory(index, &machine)
            guard let expected = keyframes.frames[index].memory else { return index }
            guard try machine.memoryDigest() == expected else {
                throw .cannotReplay(
                    "the keyframe file's pages of \(keyframes.frames[index].position) are not "
                        + "what was there")
            }
            return index
        } catch {
            guard keyframes.hasFile else { throw error }
            if case .kvm = error { throw error }
            try giveUpFile(error)
            try keyframes.restoreMemory(0, &machine)
            return 0
        }
    }
}

extension Keyframes {
    /// Adds frames whose pages are in a file.
    mutating func adopt(
        _ added: consuming [Keyframe], of file: KeyframeFile, _ machine: inout GuestMachine
    ) throws(ExecutionError) {
        let pages = (0..<file.pageCount).map { PageCopy($0, of: file, tally) }
        for (record, var frame) in zip(file.records, added) {
            for page in record.pages {
                history.add(
                    Int(page.slot), page.content.map { pages[Int($0)] }, at: frame.position)
            }
            frame.changed = record.pages.map { Int32($0.slot) }
            frame.written = record.written.map { Int32($0) }
            frame.memory = record.memory
            let hasSites =
                frames[frames.count - 1].loop.sites.generation == frame.loop.sites.generation
            frame.siteBytes = hasSites ? 0 : frame.loop.sites.byteCount
            frameBytes += frame.byteCount
            frames.append(frame)
        }
        hasFile = true
        hasUnsaved = false
        try thin(&machine)
    }

    /// Drops all frames but the first, whose pages were never in a file.
    mutating func forgetFile(_ machine: inout GuestMachine) throws(ExecutionError) {
        // Any page that ever changed may be other than it was.
        try machine.collectWrites()
        for frame in frames {
            for slot in frame.changed { machine.writes?.add(Int(slot), reader) }
        }
        let first = frames[0]
        history.keepOnly(first.position, slots: frames.dropFirst().flatMap(\.changed))
        frames = [first]
        frameBytes = first.byteCount
        base = first.position
        hasFile = false
        hasUnsaved = false
    }

    /// Writes all frames but the first, which is what was loaded.
    mutating func save(
        to path: String, key: KeyframeKey, rewritten: [RewrittenSite],
        _ memory: borrowing GuestMemory
    ) throws(ExecutionError) -> KeyframeFileSummary {
        var writer = try trace { () throws(TraceError) in
            try KeyframeFileWriter(path: path, key: key)
        }
        var digest = MemoryDigest()
        /// Pages that several frames share, by what they are.
        var numbers: [ObjectIdentifier: UInt32] = [:]
        let buffer = PageBuffer()
        for (index, frame) in frames.enumerated() {
            var pages: [KeyframeRecord.Page] = []
            for slot in frame.changed.sorted() {
                guard let number = memory.pageSlots.page(ofSlot: Int(slot)) else { continue }
                var content: UInt32?
                var hash: MemoryDigest.Page?
                if let page = history.version(Int(slot), of: frame.position) {
                    try unsafe page.copy(to: buffer.bytes)
                    // SAFETY: the buffer has 4096 bytes and does not change while they are used.
                    let bytes = unsafe UnsafeRawBufferPointer(
                        start: buffer.bytes, count: PageCopy.pageBytes)
                    hash = unsafe MemoryDigest.page(number: number, bytes: bytes)
                    if index > 0 {
                        content = numbers[ObjectIdentifier(page)]
                        if content == nil {
                            content = try trace { () throws(TraceError) in
                                try unsafe writer.add(page: bytes)
                            }
                            numbers[ObjectIdentifier(page)] = content
                        }
                    }
                }
                digest.replace(pageNumber: number, with: hash)
                pages.append(.init(slot: UInt32(slot), content: content))
            }
            guard index > 0 else { continue }
            frames[index].memory = digest.digest
            var parts = KeyframeCoding.parts(
                of: frame,
                withSites: frame.loop.sites.generation
                    != frames[index - 1].loop.sites.generation)
            if index == frames.count - 1 { parts.append(KeyframeCoding.part(of: rewritten)) }
            let record = KeyframeRecord(
                position: frame.position, memory: digest.digest, parts: parts, pages: pages,
                written: Set(frame.written).sorted().map { UInt32($0) })
            try trace { () throws(TraceError) in try writer.add(record) }
        }
        let length = try finish(writer)
        hasUnsaved = false
        return KeyframeFileSummary(count: frames.count - 1, fileBytes: length)
    }

    private func finish(
        _ writer: consuming KeyframeFileWriter
    ) throws(ExecutionError) -> UInt64 {
        do throws(TraceError) { return try writer.finish() } catch { throw .trace(error) }
    }
}
