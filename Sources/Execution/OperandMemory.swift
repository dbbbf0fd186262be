internal import Disassembly
internal import Guest
internal import Machine
internal import Trace

/// The RAM that an instruction of ring 0 reads or writes: in two pieces where it crosses a page.
struct OperandMemory {
    private struct Piece {
        var address: GuestPhysicalAddress
        var count: Int
    }

    private var pieces: [Piece] = []
    /// What the CPU notes in the page tables: accessed and dirty bits that were not set yet.
    private(set) var marks: [Change] = []

    /// Finds the RAM behind an operand.
    ///
    /// - Parameters:
    ///   - count: its length in bytes.
    ///   - linear: its linear address.
    /// - Returns: nil where the access would fault, or goes to no RAM (a write also: to ROM).
    ///   Reserved bits of page tables are not looked at, and memory under protection keys is not
    ///   touched.
    init?(
        linear: UInt64, count: Int, isWrite: Bool, flags: UInt64, system: SystemRegisters,
        memory: borrowing GuestMemory
    ) {
        var at = linear
        var left = count
        while left > 0 {
            guard
                let mapping = PageWalk.mapping(
                    of: GuestVirtualAddress(at), system: system, memory: memory),
                Self.isAllowed(mapping, isWrite: isWrite, flags: flags, system: system)
            else { return nil }
            let piece = Piece(
                address: mapping.address,
                count: min(left, mapping.contiguousBytes, 0x1000 - Int(at & 0xFFF)))
            // SAFETY: only whether there is a host address is asked.
            guard unsafe memory.host(piece.address, count: piece.count) != nil,
                !isWrite || !Self.isReadOnly(piece.address, memory)
            else { return nil }
            note(mapping, isWrite: isWrite)
            pieces.append(piece)
            at &+= UInt64(piece.count)
            left -= piece.count
        }
    }

    /// The bytes as they are.
    func read(_ memory: borrowing GuestMemory) -> [UInt8]? {
        var bytes: [UInt8] = []
        for piece in pieces {
            do throws(GuestError) {
                bytes += try memory.read(piece.address, count: piece.count)
            } catch { return nil }
        }
        return bytes
    }

    /// What writing these bytes changes.
    func write(_ bytes: [UInt8]) -> [Change] {
        var changes: [Change] = []
        var from = 0
        for piece in pieces {
            changes.append(.memory(piece.address, Array(bytes[from..<from + piece.count])))
            from += piece.count
        }
        return changes
    }

    /// What ring 0 may do (Intel SDM vol. 3, 4.6.1).
    private static func isAllowed(
        _ mapping: PageMapping, isWrite: Bool, flags: UInt64, system: SystemRegisters
    ) -> Bool {
        guard system[.cr0] & ControlBits.paging != 0 else { return true }
        if system[.cr4] & ControlBits.protectionKeys != 0 { return false }
        if mapping.isUser, system[.cr4] & ControlBits.smap != 0, flags & FlagBits.alignment == 0 {
            return false
        }
        return !isWrite || mapping.isWritable || system[.cr0] & ControlBits.writeProtect == 0
    }

    private static func isReadOnly(
        _ address: GuestPhysicalAddress, _ memory: borrowing GuestMemory
    ) -> Bool {
        memory.regions.contains {
            $0.isReadOnly && address.rawValue >= $0.base.rawValue
                && address.rawValue - $0.base.rawValue < $0.lengthInBytes
        }
    }

    /// Accessed at every level, dirty at the last (Intel SDM vol. 3, 4.8).
    private mutating func note(_ mapping: PageMapping, isWrite: Bool) {
        for index in 0..<mapping.entryCount {
            let entry = mapping.entries[index]
            var byte = entry.lowByte | EntryBits.accessed
            if isWrite, index == mapping.entryCount - 1 { byte |= EntryBits.dirty }
            let mark = Change.memory(entry.address, [byte])
            if byte != entry.lowByte, !marks.contains(mark) { marks.append(mark) }
        }
    }
}

extension MemoryReference {
    /// The linear address of an operand in ring 0; nil where segmentation or canonicality would
    /// make the access fault (Intel SDM vol. 3, 5.3; vol. 1, 3.3.7.1).
    ///
    /// - Parameters:
    ///   - count: the operand's length in bytes.
    ///   - registers: with RIP at the next instruction.
    func linearAddress(
        count: Int, isWrite: Bool, addressWidth: Int, registers: GeneralRegisters,
        system: SystemRegisters
    ) -> UInt64? {
        var offset = UInt64(bitPattern: displacement)
        if let base { offset &+= registers[base] }
        if let index { offset &+= registers[index] &* scale }
        switch addressWidth {
        case 16: offset &= 0xFFFF
        case 32: offset &= 0xFFFF_FFFF
        default: break
        }
        let place = system[segment]
        if system.mode == .long {
            let linear = segment == .fs || segment == .gs ? place.base &+ offset : offset
            let unused: UInt64 = system[.cr4] & ControlBits.la57 != 0 ? 7 : 16
            for address in [linear, linear &+ UInt64(count - 1)] {
                let extended = Int64(bitPattern: address << unused) >> Int64(unused)
                guard UInt64(bitPattern: extended) == address else { return nil }
            }
            return linear
        }
        let (last, overflows) = offset.addingReportingOverflow(UInt64(count - 1))
        guard !overflows, last <= place.limit else { return nil }
        if system.mode != .real {
            let isCode = place.type & 8 != 0
            let hasRight = place.type & 2 != 0
            // Expand-down segments, which nobody has, are left alone.
            guard !place.unusable, place.present, isCode ? hasRight && !isWrite : true,
                isCode || place.type & 4 == 0, isCode || !isWrite || hasRight
            else { return nil }
        }
        return (place.base &+ offset) & 0xFFFF_FFFF
    }
}
