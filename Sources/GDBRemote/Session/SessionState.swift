// Answers about the machine's state: registers and memory.
extension Session {
    private static var noThread: DebugError { DebugError("there is no such thread") }

    // MARK: Registers

    mutating func answerRegisters<Target: DebugTarget & ~Copyable>(
        _ command: Command, _ target: inout Target
    ) {
        do throws(DebugError) {
            guard let thread = thread(generalThread, &target) else { throw Self.noThread }
            switch command {
            case .readRegisters: try readRegisters(of: thread, &target)
            case .readRegister(let number):
                let register = try register(number)
                send(RegisterCoding.text(of: register, in: try target.registers(of: thread)))
            case .writeRegister(let number, let bytes):
                let register = try register(number)
                guard target.isWritable else { throw .readOnly }
                var registers = try target.registers(of: thread)
                try RegisterCoding.set(register, to: bytes, in: &registers)
                try target.setRegisters(registers, of: thread)
                sendOK()
            case .writeRegisters(let bytes):
                guard target.isWritable else { throw .readOnly }
                var registers = try target.registers(of: thread)
                try RegisterCoding.setAll(bytes, in: &registers, layout)
                try target.setRegisters(registers, of: thread)
                sendOK()
            default: send("")
            }
        } catch { fail(error) }
    }

    private mutating func readRegisters<Target: DebugTarget & ~Copyable>(
        of thread: DebugThread.ID, _ target: inout Target
    ) throws(DebugError) {
        do throws(DebugError) {
            send(RegisterCoding.allAsText(try target.registers(of: thread), layout))
        } catch { failToRead(error) }
    }

    private func register(_ number: Int) throws(DebugError) -> RegisterDescription {
        guard number < layout.registers.count else {
            throw DebugError(
                "there are registers 0 to \(layout.registers.count - 1), not \(number)")
        }
        return layout.registers[number]
    }

    // MARK: Memory

    mutating func readMemory<Target: DebugTarget & ~Copyable>(
        _ address: UInt64, _ count: Int, isBinary: Bool, _ target: inout Target
    ) {
        do throws(DebugError) {
            guard let thread = thread(generalThread, &target) else { throw Self.noThread }
            // Every byte may need an escape; fewer than were asked for is a good answer.
            let count = isBinary ? min(count, Limits.memoryTransfer - 1) : count
            var bytes: [UInt8] = []
            if count > 0 {
                bytes = try target.read(address, count: count, space: space, thread: thread)
                guard !bytes.isEmpty else {
                    throw DebugError(
                        "nothing is mapped at 0x\(String(address, radix: 16))"
                            + (space == .physical ? " (physical)" : ""))
                }
                bytes = Array(bytes.prefix(count))
            }
            send(isBinary ? [UInt8(ascii: "b")] + bytes : HexText.bytes(bytes))
        } catch { failToRead(error) }
    }

    mutating func writeMemory<Target: DebugTarget & ~Copyable>(
        _ address: UInt64, _ bytes: [UInt8], _ target: inout Target
    ) {
        do throws(DebugError) {
            // How gdb finds out whether it may send binary data.
            guard !bytes.isEmpty else { return sendOK() }
            guard let thread = thread(generalThread, &target) else { throw Self.noThread }
            guard target.isWritable else {
                // gdb says only that it cannot access the memory.
                showLater(
                    "The write to 0x\(String(address, radix: 16)) was refused: \(DebugError.readOnly)"
                )
                throw .readOnly
            }
            try target.write(bytes, at: address, space: space, thread: thread)
            sendOK()
        } catch { fail(error) }
    }
}
