import Machine
import Testing

@testable import KVM

/// A real-mode guest of one slot of 64 KiB at 0.
struct RealModeGuest: ~Copyable {
    static let code = 0x1000
    let memory: ScratchMemory
    var machine: VirtualMachine

    init(_ code: [UInt8], flags: MemorySlotFlags = []) throws {
        let memory = try ScratchMemory(byteCount: 0x10000)
        memory.write(code, at: Self.code)
        var machine = try Hypervisor().createMachine()
        try unsafe machine.setMemory(
            slot: 0, at: GuestPhysicalAddress(0), memory: memory.bytes, flags: flags)
        self.memory = memory
        self.machine = machine
    }

    /// A CPU at `code` whose segments are flat at 0, except DS, which is over 0xA0000.
    func cpu(
        synchronisation: SynchronisedRegisters = .all, possible: SynchronisedRegisters = .all,
        _ set: (inout GeneralRegisters) -> Void = { _ in }
    ) throws -> SettledCPU {
        var cpu = try machine.createCPU(
            id: 0, synchronisation: synchronisation, possible: possible)
        var system = try cpu.systemRegisters()
        system[.cs].base = 0
        system[.cs].selector = 0
        system[.ds].base = 0xA0000
        system[.ds].selector = 0xA000
        try cpu.setSystemRegisters(system)
        var registers = GeneralRegisters()
        registers.rip = UInt64(Self.code)
        registers.rflags = 2
        registers[.rsp] = 0x800
        set(&registers)
        try cpu.setRegisters(registers)
        return cpu
    }
}

/// What a test says when an exit is not the one it waits for.
struct Unexpected: Error { var what: String }

extension PendingCPU {
    /// Settles; every further exit, which has to be answered, is handed on.
    consuming func settle(
        _ answer: (Exit, inout PendingCPU) throws -> Void
    ) throws -> SettledCPU {
        var pending = self
        while true {
            switch try pending.settle() {
            case .settled(let settled): return settled
            case .exit(let exit, let next):
                pending = next
                try answer(exit, &pending)
            }
        }
    }

    /// The next exit; being interrupted is a failure.
    mutating func exit() throws -> Exit {
        guard case .exit(let exit) = try run() else { throw Unexpected(what: "interrupted") }
        return exit
    }

    /// The next exit, which must be port I/O.
    mutating func io() throws -> PortIO {
        let exit = try exit()
        guard case .io(let io) = exit else { throw Unexpected(what: "\(exit)") }
        return io
    }

    /// The next exit, which must be MMIO.
    mutating func mmio() throws -> MMIO {
        let exit = try exit()
        guard case .mmio(let mmio) = exit else { throw Unexpected(what: "\(exit)") }
        return mmio
    }
}

@Suite(.needsKVM) struct GuestTests {
    @Test(
        "The classic guest adds, prints and halts, with and without sync registers",
        arguments: [SynchronisedRegisters.all, .general, []])
    func classic(possible: SynchronisedRegisters) throws {
        // mov dx, 0x3f8; add al, bl; add al, '0'; out dx, al; hlt
        let guest = try RealModeGuest([0xBA, 0xF8, 0x03, 0x00, 0xD8, 0x04, 0x30, 0xEE, 0xF4])
        var cpu = try guest.cpu(possible: possible) {
            $0[.rax] = 2
            $0[.rbx] = 2
        }.begin()
        let io = try cpu.io()
        #expect(io.direction == .output && io.port == 0x3F8 && io.size == 1 && io.count == 1)
        #expect(cpu.ioValue == UInt32(UInt8(ascii: "4")))
        #expect(cpu.registers[.rax] == UInt64(UInt8(ascii: "4")))
        #expect(unsafe cpu.registersPointer.pointee[.rbx] == 2)
        #expect(cpu.systemRegisters[.cs].limit == 0xFFFF)
        #expect(unsafe cpu.systemRegistersPointer.pointee[.ds].base == 0xA0000)
        #expect(!cpu.events.isAnythingPending)
        guard case .hlt = try cpu.exit() else { throw Unexpected(what: "no HLT") }
        #expect(cpu.registers.rip == 0x1009)
    }

    @Test(
        "IN of every size takes its answer, also when settled before the next run",
        arguments: [false, true])
    func input(settled: Bool) throws {
        // in al, 0x10; in ax, 0x10; in eax, 0x10; hlt
        let guest = try RealModeGuest([0xE4, 0x10, 0xE5, 0x10, 0x66, 0xE5, 0x10, 0xF4])
        var cpu = try guest.cpu().begin()
        let answers: [(size: UInt8, value: UInt64)] = [
            (1, 0xAB), (2, 0xBEEF), (4, 0x1234_5678),
        ]
        for (size, value) in answers {
            let io = try cpu.io()
            #expect(io.direction == .input && io.size == size)
            cpu.ioValue = UInt32(value)
            if settled {
                let idle = try cpu.settle { exit, _ in throw Unexpected(what: "\(exit)") }
                let mask: UInt64 = size == 4 ? 0xFFFF_FFFF : (1 << UInt64(size * 8)) - 1
                #expect(try idle.registers()[.rax] & mask == value)
                cpu = idle.begin()
            }
        }
        guard case .hlt = try cpu.exit() else { throw Unexpected(what: "no HLT") }
        #expect(cpu.registers[.rax] == 0x1234_5678)
    }

    @Test("A settled CPU takes registers that a pending one would lose")
    func writeWhileInPending() throws {
        // in al, 0x10; out 0x20, al; mov al, bl; out 0x20, al
        let guest = try RealModeGuest([0xE4, 0x10, 0xE6, 0x20, 0x88, 0xD8, 0xE6, 0x20])
        var cpu = try guest.cpu().begin()
        _ = try cpu.io()
        cpu.ioValue = 0x5A
        var idle = try cpu.settle { exit, _ in throw Unexpected(what: "\(exit)") }
        var registers = try idle.registers()
        registers[.rbx] = 0x77
        try idle.setRegisters(registers)
        cpu = idle.begin()
        _ = try cpu.io()
        #expect(cpu.ioValue == 0x5A)
        _ = try cpu.io()
        #expect(cpu.ioValue == 0x77)
    }

    @Test(
        "Registers replaced after OUT are what the guest goes on with; not after IN",
        arguments: [SynchronisedRegisters.all, []])
    func replaceAfterOut(possible: SynchronisedRegisters) throws {
        // out 0x5a, al; out 0x20, al; in al, 0x10
        let guest = try RealModeGuest([0xE6, 0x5A, 0xE6, 0x20, 0xE4, 0x10])
        var cpu = try guest.cpu(possible: possible).begin()
        _ = try cpu.io()
        var registers = cpu.registers
        registers[.rax] = 0xC3
        #expect(try cpu.replaceRegistersAfterOut(registers))
        _ = try cpu.io()
        #expect(cpu.ioValue == 0xC3)
        _ = try cpu.io()
        let before = cpu.registers
        var wrong = before
        wrong[.rbx] = 99
        #expect(try !cpu.replaceRegistersAfterOut(wrong))
        #expect(cpu.registers == before)
    }

    @Test("A CPU that was asked for no registers still gives exits and takes answers")
    func withoutRegisters() throws {
        // in al, 0x10; out 0x20, al
        let guest = try RealModeGuest([0xE4, 0x10, 0xE6, 0x20])
        var cpu = try guest.cpu(synchronisation: []).begin()
        _ = try cpu.io()
        cpu.ioValue = 0x5A
        _ = try cpu.io()
        #expect(cpu.ioValue == 0x5A)
        #expect(try !cpu.replaceRegistersAfterOut(GeneralRegisters()))
        let idle = try cpu.settle { exit, _ in throw Unexpected(what: "\(exit)") }
        #expect(try idle.registers()[.rax] == 0x5A)
    }

    @Test("REP INSW and REP OUTSW move every byte, whatever the exits are cut into")
    func strings() throws {
        // mov cx, 5; rep insw; mov cx, 5; mov si, 0x2000; rep es outsw; hlt
        let guest = try RealModeGuest([
            0xB9, 5, 0, 0xF3, 0x6D, 0xB9, 5, 0, 0xBE, 0x00, 0x20, 0xF3, 0x26, 0x6F, 0xF4,
        ])
        var cpu = try guest.cpu {
            $0[.rdx] = 0x1F0
            $0[.rdi] = 0x2000
        }.begin()
        var given: [UInt8] = []
        var taken: [UInt8] = []
        while case .io(let io) = try cpu.exit() {
            #expect(io.size == 2 && io.port == 0x1F0)
            cpu.withIOData { bytes in
                #expect(bytes.byteCount == io.byteCount)
                for index in 0..<io.byteCount {
                    if io.direction == .input {
                        let next = UInt8(truncatingIfNeeded: given.count &* 37 &+ 1)
                        given.append(next)
                        bytes.storeBytes(of: next, toByteOffset: index, as: UInt8.self)
                    } else {
                        taken.append(bytes.bytes.byte(at: index))
                    }
                }
            }
        }
        #expect(given.count == 10)
        #expect(taken == given)
        #expect(cpu.registers[.rcx] & 0xFFFF == 0)
    }

    @Test("INS that is pending settles; registers written then are kept")
    func settleString() throws {
        // insb; hlt
        let guest = try RealModeGuest([0x6C, 0xF4])
        var cpu = try guest.cpu {
            $0[.rdx] = 0x1F0
            $0[.rdi] = 0x2000
        }.begin()
        _ = try cpu.io()
        cpu.ioValue = 0x99
        var idle = try cpu.settle { exit, _ in throw Unexpected(what: "\(exit)") }
        #expect(guest.memory.read64(at: 0x2000) & 0xFF == 0x99)
        var registers = try idle.registers()
        #expect(registers[.rdi] == 0x2001)
        registers[.rbx] = 5
        try idle.setRegisters(registers)
        cpu = idle.begin()
        guard case .hlt = try cpu.exit() else { throw Unexpected(what: "no HLT") }
        #expect(cpu.registers[.rbx] == 5)
    }

    @Test("A page-crossing MMIO read comes in halves, also while settling")
    func pageCrossing() throws {
        // mov eax, [0xffe]; hlt
        let guest = try RealModeGuest([0x66, 0xA1, 0xFE, 0x0F, 0xF4])
        var cpu = try guest.cpu().begin()
        let first = try cpu.mmio()
        #expect(first.address == GuestPhysicalAddress(0xA0FFE) && first.size == 2)
        #expect(!first.isWrite)
        cpu.mmioValue = 0xBBAA
        var further: [MMIO] = []
        let idle = try cpu.settle { exit, pending in
            guard case .mmio(let mmio) = exit else { throw Unexpected(what: "\(exit)") }
            further.append(mmio)
            pending.mmioValue = 0xDDCC
        }
        #expect(further == [MMIO(address: GuestPhysicalAddress(0xA1000), size: 2, isWrite: false)])
        #expect(try idle.registers()[.rax] == 0xDDCC_BBAA)
        var after = idle.begin()
        guard case .hlt = try after.exit() else { throw Unexpected(what: "no HLT") }
    }

    @Test("MMIO writes show their bytes, and no more")
    func mmioWrite() throws {
        // mov [0], al; mov [0x10], ax; mov [0x20], eax; hlt
        let guest = try RealModeGuest([
            0xA2, 0, 0, 0xA3, 0x10, 0, 0x66, 0xA3, 0x20, 0, 0xF4,
        ])
        var cpu = try guest.cpu { $0[.rax] = 0x1122_3344 }.begin()
        for (size, value) in [(1, 0x44), (2, 0x3344), (4, 0x1122_3344)] as [(UInt8, UInt64)] {
            let mmio = try cpu.mmio()
            #expect(mmio.isWrite && mmio.size == size)
            #expect(cpu.mmioValue == value)
        }
    }

    @Test("A read-only slot's writes exit, its reads do not")
    func readOnly() throws {
        // mov al, [0]; mov [1], al; hlt, with DS over a read-only slot
        var guest = try RealModeGuest([0xA0, 0, 0, 0xA2, 1, 0, 0xF4])
        let rom = try ScratchMemory(byteCount: 0x1000)
        rom.write([0x66], at: 0)
        try unsafe guest.machine.setMemory(
            slot: 1, at: GuestPhysicalAddress(0xA0000), memory: rom.bytes, flags: .readOnly)
        var cpu = try guest.cpu().begin()
        let mmio = try cpu.mmio()
        #expect(mmio.isWrite && mmio.address == GuestPhysicalAddress(0xA0001))
        #expect(cpu.mmioValue == 0x66)
    }

    @Test("The dirty log shows the guest's pages once; a buffer that is too small is refused")
    func dirtyLog() throws {
        // mov es:[0x3000], al; out 0x10, al; hlt
        let guest = try RealModeGuest(
            [0x26, 0xA2, 0x00, 0x30, 0xE6, 0x10, 0xF4], flags: .logDirtyPages)
        var cpu = try guest.cpu().begin()
        _ = try cpu.io()
        var bitmap: [UInt64] = [0]
        do {
            var span = bitmap.mutableSpan
            try guest.machine.readDirtyLog(slot: 0, into: &span)
        }
        #expect(bitmap == [1 << 3])
        do {
            var span = bitmap.mutableSpan
            try guest.machine.readDirtyLog(slot: 0, into: &span)
        }
        #expect(bitmap == [0])
        var none: [UInt64] = []
        #expect(throws: KVMError.bufferTooSmall("the dirty log of slot 0", needed: 8, given: 0)) {
            var span = none.mutableSpan
            try guest.machine.readDirtyLog(slot: 0, into: &span)
        }
        #expect(throws: KVMError.invalidArgument("memory slot 7 is not in use")) {
            var span = bitmap.mutableSpan
            try guest.machine.readDirtyLog(slot: 7, into: &span)
        }
    }

    @Test("Filtered MSRs come to user space, and a fault given as the answer reaches the guest")
    func msrFilter() throws {
        // mov ecx, 0x10; rdmsr; wrmsr; rdmsr; the second RDMSR gets #GP
        let guest = try RealModeGuest([
            0x66, 0xB9, 0x10, 0, 0, 0, 0x0F, 0x32, 0x0F, 0x30, 0x0F, 0x32, 0xF4,
        ])
        // Vector 13 of the real-mode table: 0:0x1100, an OUT.
        guest.memory.write([0x00, 0x11, 0, 0], at: 13 * 4)
        guest.memory.write([0xE6, 0x13, 0xF4], at: 0x1100)
        try guest.machine.setMSRFilter([MSRFilterRange(first: 0x10)])
        var cpu = try guest.cpu().begin()
        guard case .rdmsr(let read) = try cpu.exit() else { throw Unexpected(what: "no RDMSR") }
        #expect(read.index == 0x10 && read.cause == 4)
        cpu.answerMSR(0x1111_2222_3333_4444)
        guard case .wrmsr(let write) = try cpu.exit() else { throw Unexpected(what: "no WRMSR") }
        #expect(write.index == 0x10 && write.value == 0x1111_2222_3333_4444)
        cpu.answerMSR()
        guard case .rdmsr = try cpu.exit() else { throw Unexpected(what: "no second RDMSR") }
        cpu.answerMSR(fault: true)
        #expect(try cpu.io().port == 0x13)
    }

    @Test("MSR filters that KVM has no place for are refused with a reason")
    func msrFilterLimits() throws {
        let machine = try Hypervisor().createMachine()
        #expect(throws: KVMError.self) {
            try machine.setMSRFilter((0..<17).map { MSRFilterRange(first: $0 * 0x100) })
        }
        #expect(throws: KVMError.self) {
            try machine.setMSRFilter([MSRFilterRange(first: 0, count: 0)])
        }
    }
}

extension RawSpan {
    /// One byte, bounds-checked.
    func byte(at index: Int) -> UInt8 {
        precondition(index < byteCount)
        // SAFETY: the index was checked.
        return unsafe unsafeLoad(fromByteOffset: index, as: UInt8.self)
    }
}
