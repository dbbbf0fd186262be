import Machine
import TestSupport
import Testing

@testable import KVM

/// A run page that no kernel wrote.
struct FakePage: ~Copyable {
    let memory: ScratchMemory
    var page: RunPage {
        guard let base = unsafe memory.bytes.baseAddress else { preconditionFailure() }
        // SAFETY: the memory is larger than struct kvm_run and lives as long as self.
        return unsafe RunPage(base: base, byteCount: 12288)
    }

    init() throws { memory = try ScratchMemory(byteCount: 12288) }

    func set(reason: UInt32, payload: [UInt8]) {
        memory.write([UInt8](repeating: 0, count: 256), at: 32)
        memory.write((0..<4).map { UInt8(truncatingIfNeeded: reason >> UInt32($0 * 8)) }, at: 8)
        memory.write(payload, at: 32)
    }
}

@Suite struct ExitDecodingTests {
    static func words(_ words: UInt64...) -> [UInt8] {
        words.flatMap { word in
            (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64($0 * 8)) }
        }
    }

    @Test("Every number gives an exit that reports that number; unknown ones are .other")
    func everyReason() throws {
        let fake = try FakePage()
        for number in Array(0...64) + [0x7FFF_FFFF, 0xFFFF_FFFF] as [UInt32] {
            // A payload that is valid as port I/O and, by its 13th word, as MMIO.
            var payload = Self.words(1 << 32 | 0x80 << 16 | 1 << 8, 4096)
            if number == 6 { payload = Self.words(0x1000, 0, 4) }
            fake.set(reason: number, payload: payload)
            let exit = unsafe fake.page.decodeExit()
            #expect(exit.reason == ExitReason(rawValue: number))
            let isOther = if case .other = exit { true } else { false }
            let named: Set<UInt32> = [
                0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16, 17, 24, 26, 27, 29, 30, 31, 32, 33,
                34, 37, 39, 40,
            ]
            #expect(isOther == !named.contains(number), "reason \(number)")
        }
    }

    @Test(
        "Port I/O that does not fit the page is .other, never a read beyond it",
        arguments: [
            // direction, size, count, offset
            (0, 3, 1, 4096), (0, 0, 1, 4096), (2, 1, 1, 4096), (0, 1, 0, 4096), (0, 1, 1, 12288),
            (0, 4, 1, 12285), (1, 4, 0xFFFF_FFFF, 4096), (1, 1, 8193, 4096),
            (1, 1, 1, UInt64.max), (1, 8, 1, 4096),
        ] as [(UInt64, UInt64, UInt64, UInt64)])
    func badIO(direction: UInt64, size: UInt64, count: UInt64, offset: UInt64) throws {
        let fake = try FakePage()
        fake.set(
            reason: 2,
            payload: Self.words(direction | size << 8 | 0x3F8 << 16 | count << 32, offset))
        guard case .other(.io) = unsafe fake.page.decodeExit() else {
            Issue.record("decoded")
            return
        }
        #expect(unsafe fake.page.ioData.isEmpty)
    }

    @Test("Payloads are read from their places")
    func payloads() throws {
        let fake = try FakePage()
        fake.set(reason: 6, payload: Self.words(0xFEE0_0000, 0x1122, 1 << 32 | 2))
        guard case .mmio(let mmio) = unsafe fake.page.decodeExit() else {
            Issue.record("no MMIO")
            return
        }
        #expect(
            mmio == MMIO(address: GuestPhysicalAddress(0xFEE0_0000), size: 2, isWrite: true))
        #expect(unsafe fake.page.mmioData.count == 2)

        fake.set(reason: 6, payload: Self.words(0, 0, 9))
        guard case .other(.mmio) = unsafe fake.page.decodeExit() else {
            Issue.record("MMIO of 9 bytes")
            return
        }

        fake.set(
            reason: 17, payload: Self.words(3 << 32 | 1, 1, 0x0000_0000_C1B8_0FF3 << 8 | 15, 0))
        guard case .internalError(let error) = unsafe fake.page.decodeExit() else {
            Issue.record("no internal error")
            return
        }
        #expect(error.isEmulation && error.count == 3)
        #expect(error.instructionByteCount == 15)
        #expect(error.instructionBytes.prefix(4) == [0xF3, 0x0F, 0xB8, 0xC1])
        #expect(error.instructionByte(15) == 0 && error.instructionByte(-1) == 0)

        fake.set(reason: 17, payload: Self.words(UInt64(UInt32.max) << 32 | 1, 1, 0xFF))
        guard case .internalError(let absurd) = unsafe fake.page.decodeExit() else {
            Issue.record("no internal error")
            return
        }
        #expect(absurd.count == 16 && absurd.instructionByteCount == 15)

        fake.set(reason: 39, payload: Self.words(8, 0x1000, 0x2000))
        guard case .memoryFault(let fault) = unsafe fake.page.decodeExit() else {
            Issue.record("no memory fault")
            return
        }
        #expect(
            fault
                == MemoryFault(flags: 8, address: GuestPhysicalAddress(0x1000), size: 0x2000))

        fake.set(reason: 29, payload: Self.words(0, 0x10 << 32 | 4, 77))
        guard case .rdmsr(let msr) = unsafe fake.page.decodeExit() else {
            Issue.record("no RDMSR")
            return
        }
        #expect(msr == MSRAccess(index: 0x10, cause: 4, value: 0))

        fake.set(reason: 4, payload: Self.words(1, 0x8001, 0xFFFF_4FF0, 0x400))
        guard case .debug(let stop) = unsafe fake.page.decodeExit() else {
            Issue.record("no debug stop")
            return
        }
        #expect(
            stop
                == DebugStop(
                    exception: 1, pc: GuestVirtualAddress(0x8001), dr6: 0xFFFF_4FF0, dr7: 0x400))
    }

    @Test("Random pages never trap, and what they give stays inside the page")
    func randomPages() throws {
        let fake = try FakePage()
        var random = SeededGenerator(seed: 0x6B76_6D74)
        for _ in 0..<4_000 {
            // Small numbers are likelier to pass the checks.
            let payload = (0..<64).map { _ in
                let number = random.next()
                return UInt8(truncatingIfNeeded: number >> 32 & 1 == 0 ? number & 7 : number)
            }
            let reason = UInt32.random(in: 0...45, using: &random)
            fake.set(reason: reason, payload: payload)
            let exit = unsafe fake.page.decodeExit()
            #expect(exit.reason.rawValue == reason)
            switch exit {
            case .io(let io):
                #expect(io.dataOffset + io.byteCount <= 12288 && io.byteCount > 0)
                #expect(unsafe fake.page.ioData.count == io.byteCount)
            case .mmio(let mmio): #expect(mmio.size >= 1 && mmio.size <= 8)
            case .internalError(let error):
                #expect(error.count <= 16)
                _ = error.instructionBytes
            case .systemEvent(let event): #expect(event.count <= 16)
            default: break
            }
        }
    }
}
