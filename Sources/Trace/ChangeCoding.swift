import Machine

// The typed changes of a completion row: tag, then fixed fields, then counted bytes.

extension Change {
    /// Changes as lists that have room in a completion each. None of them may be larger than that.
    public static func split(_ changes: [Change]) -> [[Change]] {
        var lists: [[Change]] = []
        var room = 0
        for change in changes {
            if change.encodedBytes > room {
                lists.append([])
                // Beside the row's own first bytes.
                room = Limits.completionBytes - 16
            }
            lists[lists.count - 1].append(change)
            room -= change.encodedBytes
        }
        return lists
    }

    /// Bytes this change takes in a row.
    var encodedBytes: Int {
        switch self {
        case .register, .systemWord, .debugWord: 10
        case .noMemory: 1
        case .event: 8
        case .msr, .extendedControl: 13
        case .extendedState(_, let bytes): 9 + bytes.count
        case .memory(_, let bytes): 13 + bytes.count
        }
    }

    /// Writes the change where `encodedBytes` have been reserved; returns that number.
    func put(at to: UnsafeMutableRawPointer) -> Int {
        // SAFETY: the caller reserved `encodedBytes`.
        switch self {
        case .register(let register, let value):
            unsafe to.put(ChangeTag.register, at: 0)
            unsafe to.put(UInt8(truncatingIfNeeded: register.rawValue), at: 1)
            unsafe to.put(value, at: 2)
        case .systemWord(let index, let value):
            precondition(Int(index) < RowLayout.systemWordCount)
            unsafe to.put(ChangeTag.systemWord, at: 0)
            unsafe to.put(index, at: 1)
            unsafe to.put(value, at: 2)
        case .event(let kind, let vector, let errorCode):
            unsafe to.put(ChangeTag.event, at: 0)
            unsafe to.put(kind.rawValue, at: 1)
            unsafe to.put(vector, at: 2)
            unsafe to.put(UInt8(errorCode == nil ? 0 : 1), at: 3)
            unsafe to.put(errorCode ?? 0, at: 4)
        case .msr(let index, let value):
            unsafe to.put(ChangeTag.msr, at: 0)
            unsafe to.put(index, at: 1)
            unsafe to.put(value, at: 5)
        case .extendedState(let offset, let bytes):
            unsafe to.put(ChangeTag.extendedState, at: 0)
            unsafe to.put(offset, at: 1)
            unsafe to.put(UInt32(truncatingIfNeeded: bytes.count), at: 5)
            unsafe Self.copy(bytes, to + 9)
        case .memory(let address, let bytes):
            unsafe to.put(ChangeTag.memory, at: 0)
            unsafe to.put(address.rawValue, at: 1)
            unsafe to.put(UInt32(truncatingIfNeeded: bytes.count), at: 9)
            unsafe Self.copy(bytes, to + 13)
        case .debugWord(let index, let value):
            precondition(Int(index) < RowLayout.debugWordCount)
            unsafe to.put(ChangeTag.debugWord, at: 0)
            unsafe to.put(index, at: 1)
            unsafe to.put(value, at: 2)
        case .extendedControl(let index, let value):
            unsafe to.put(ChangeTag.extendedControl, at: 0)
            unsafe to.put(index, at: 1)
            unsafe to.put(value, at: 5)
        case .noMemory: unsafe to.put(ChangeTag.noMemory, at: 0)
        }
        return encodedBytes
    }

    private static func copy(_ bytes: [UInt8], _ to: UnsafeMutableRawPointer) {
        for (index, byte) in bytes.enumerated() {
            // SAFETY: the caller reserved room for all of `bytes`.
            unsafe to.put(byte, at: index)
        }
    }

    /// Reads one change.
    static func read(_ reader: inout ByteReader) throws(Malformed) -> Change {
        let tag: UInt8 = try reader.integer()
        switch tag {
        case ChangeTag.register:
            let index: UInt8 = try reader.integer()
            guard let register = Register(rawValue: Int(index)) else {
                throw Malformed("a completion changes register \(index)")
            }
            return .register(register, try reader.integer())
        case ChangeTag.systemWord:
            let index: UInt8 = try reader.integer()
            guard Int(index) < RowLayout.systemWordCount else {
                throw Malformed("a completion changes system word \(index)")
            }
            return .systemWord(index, try reader.integer())
        case ChangeTag.event:
            let kindByte: UInt8 = try reader.integer()
            let vector: UInt8 = try reader.integer()
            let hasErrorCode: UInt8 = try reader.integer()
            let errorCode: UInt32 = try reader.integer()
            guard let kind = InterruptionKind(rawValue: kindByte), hasErrorCode <= 1,
                hasErrorCode == 1 || errorCode == 0
            else { throw Malformed("a completion injects an unknown event") }
            return .event(kind, vector: vector, errorCode: hasErrorCode == 1 ? errorCode : nil)
        case ChangeTag.msr:
            return .msr(index: try reader.integer(), try reader.integer())
        case ChangeTag.extendedState:
            let offset: UInt32 = try reader.integer()
            let count = Int(try reader.integer(UInt32.self))
            return .extendedState(offset: offset, unsafe Array(try reader.bytes(count)))
        case ChangeTag.memory:
            let address = GuestPhysicalAddress(try reader.integer(UInt64.self))
            let count = Int(try reader.integer(UInt32.self))
            return .memory(address, unsafe Array(try reader.bytes(count)))
        case ChangeTag.debugWord:
            let index: UInt8 = try reader.integer()
            guard Int(index) < RowLayout.debugWordCount else {
                throw Malformed("a completion changes word \(index) of the debug registers")
            }
            return .debugWord(index, try reader.integer())
        case ChangeTag.extendedControl:
            return .extendedControl(index: try reader.integer(), try reader.integer())
        case ChangeTag.noMemory: return .noMemory
        default: throw Malformed("a completion with a change of unknown kind \(tag)")
        }
    }

    /// Checks one change and passes over it.
    static func skip(_ reader: inout ByteReader) throws(Malformed) { _ = try read(&reader) }
}
