/// A packet, understood: what a debugger asks for. Sizes are bounded by ``Limits``.
enum Command: Equatable {
    // What the two sides can do.
    case supported(features: [String])
    case startNoAcknowledgement
    case mustReplyEmpty
    case enableExtendedMode

    // Where the machine stands, and moving it.
    case stopReason
    case resume(ResumeAction, thread: ThreadChoice)
    case resumeKinds
    case stopThreads
    case restart
    case restartAndReport

    // Registers, by the numbers of the target description.
    case readRegisters
    case writeRegisters([UInt8])
    case readRegister(Int)
    case writeRegister(Int, [UInt8])

    // Memory.
    case readMemory(address: UInt64, count: Int, isBinary: Bool)
    case writeMemory(address: UInt64, [UInt8])
    case memorySpace
    case setMemorySpace(MemorySpace)

    case insert(Breakpoint)
    case remove(Breakpoint)

    // Threads.
    case setThread(ThreadUse, ThreadChoice)
    case isAlive(ThreadChoice)
    case currentThread
    case firstThreads
    case moreThreads
    case threadInformation(ThreadChoice)

    // What the debugger wants to know before all else.
    case isAttached
    case symbolLookup
    case transfer(Transfer, offset: UInt64, count: Int)
    case file(FileRequest)

    case monitor([UInt8])

    // The end.
    case detach
    case kill
    case killAndReport

    /// Known to nobody here: an empty answer.
    case unknown

    /// What an `H` packet sets the thread for.
    enum ThreadUse: Equatable {
        case general, resuming
    }

    /// A thread as packets name it.
    enum ThreadChoice: Equatable {
        /// `0`, or none named.
        case any
        /// `-1`.
        case all
        case one(DebugThread.ID)
    }

    /// An object that `qXfer` reads.
    enum Transfer: Equatable {
        /// `features:read:ANNEX`: a target description.
        case features(annex: String)
        case memoryMap
        case executableName
    }

    /// Host I/O: the debugger reads the guest's program over the connection.
    enum FileRequest: Equatable {
        case setFileSystem
        case open(name: [UInt8], flags: UInt64)
        case read(descriptor: UInt64, count: Int, offset: UInt64)
        case status(descriptor: UInt64)
        case close(descriptor: UInt64)
        /// Anything else.
        case other
    }
}

/// A packet that makes no sense: what is wrong with it.
struct CommandError: Error, Equatable {
    /// One line, for the debugger's user.
    var message: String

    init(_ message: String) { self.message = message }
}
