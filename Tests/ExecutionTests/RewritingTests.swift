import Machine
import Testing
import Trace

@testable import Execution
@testable import Guest
@testable import KVM

/// Which instructions are rewritten, to what, and how their OUTs are told from others.
@Suite struct RewritingTests {
    private static let base: UInt64 = 0x10_0000
    private static let link: UInt64 = 0xFFFF_FFFF_8010_0000

    private static let rdtsc: [UInt8] = [0x0F, 0x31]
    private static let cpuid: [UInt8] = [0x0F, 0xA2]
    private static let nop: [UInt8] = [0x90]

    /// The plan of an ELF64 image whose one section is this code.
    private static func plan(_ code: [UInt8], isCertain: Bool = true) throws -> LoadPlan {
        var plan = try LoadPlan(
            image: GuestFile(name: "code", bytes: code),
            options: LoadOptions(kind: .flatLong, loadAddress: base),
            ram: RAMLayout(lengthInBytes: 16 << 20))
        plan.kind = .elf64
        plan.code = [
            CodeRange(
                physical: GuestPhysicalAddress(base), virtual: GuestVirtualAddress(link),
                fileRange: 0..<code.count, name: ".text", isCertain: isCertain)
        ]
        return plan
    }

    private static func memory(_ code: [UInt8], at address: UInt64 = base) throws -> GuestMemory {
        let memory = try GuestMemory(layout: RAMLayout(lengthInBytes: 16 << 20))
        try memory.write(GuestPhysicalAddress(address), code[...])
        return memory
    }

    private static func out(
        _ port: UInt16, size: UInt8 = 1, count: UInt32 = 1
    ) -> PortIO {
        PortIO(direction: .output, size: size, port: port, count: count, dataOffset: 0)
    }

    // MARK: Sites

    @Test func `sites are found where instructions start, with their addresses`() throws {
        // RDTSC; mov eax, 0x0000310f (its bytes hold 0F 31); RDTSCP; CPUID.
        let code =
            Self.nop + Self.rdtsc + [0xB8, 0x0F, 0x31, 0, 0] + [0x0F, 0x01, 0xF9] + Self.cpuid
        let rewriting = Rewriting(try Self.plan(code), rewritesCPUID: true)
        #expect(
            rewriting.sites == [
                RewrittenSite(
                    address: GuestPhysicalAddress(Self.base + 1),
                    linearAddress: GuestVirtualAddress(Self.link + 1), original: Self.rdtsc,
                    replacement: [0xE6, 0x5A]),
                RewrittenSite(
                    address: GuestPhysicalAddress(Self.base + 11),
                    linearAddress: GuestVirtualAddress(Self.link + 11), original: Self.cpuid,
                    replacement: [0xE6, 0xCB]),
            ])
        #expect(rewriting.traps.timeStampPort == 0x5A)
        #expect(rewriting.traps.cpuidPort == 0xCB)
    }

    @Test func `the first ports keep a checksum of the bytes`() throws {
        let rewriting = Rewriting(try Self.plan(Self.rdtsc + Self.cpuid), rewritesCPUID: true)
        #expect(rewriting.sites.count == 2)
        for site in rewriting.sites {
            #expect(site.original.reduce(0, &+) == site.replacement.reduce(0, &+))
        }
    }

    @Test func `CPUID stays where the host shows the table that was asked for`() throws {
        let rewriting = Rewriting(try Self.plan(Self.rdtsc + Self.cpuid), rewritesCPUID: false)
        #expect(rewriting.sites.map(\.original) == [Self.rdtsc])
        #expect(rewriting.traps.cpuidPort == nil)
    }

    @Test func `what may be data stays as it is`() throws {
        let plan = try Self.plan(Self.rdtsc + Self.cpuid, isCertain: false)
        let rewriting = Rewriting(plan, rewritesCPUID: true)
        #expect(rewriting.sites == [])
        #expect(rewriting.traps == RewriteTraps())
    }

    @Test func `an image without such instructions has no trap`() throws {
        let rewriting = Rewriting(try Self.plan([0xE6, 0x80, 0xF4]), rewritesCPUID: true)
        #expect(rewriting.sites == [])
        #expect(rewriting.traps == RewriteTraps())
    }

    // MARK: Ports

    @Test func `a port whose OUT the image has is not taken`() throws {
        let code = Self.rdtsc + [0xE6, 0x5A] + Self.cpuid + [0xE6, 0xCB, 0xE6, 0x5B]
        let rewriting = Rewriting(try Self.plan(code), rewritesCPUID: true)
        #expect(rewriting.sites.map(\.replacement) == [[0xE6, 0x5C], [0xE6, 0xCD]])
    }

    @Test func `an OUT that only data spell counts as one, too`() throws {
        // mov eax, 0x00005ae6: a jump into it would be an OUT.
        let code = Self.rdtsc + [0xB8, 0xE6, 0x5A, 0, 0]
        let rewriting = Rewriting(try Self.plan(code), rewritesCPUID: false)
        #expect(rewriting.sites.map(\.replacement) == [[0xE6, 0x5B]])
    }

    @Test func `with every port in use nothing is rewritten`() throws {
        let used = (0x5A...0x5F as ClosedRange<UInt8>).flatMap { [0xE6, $0] as [UInt8] }
        let rewriting = Rewriting(try Self.plan(Self.rdtsc + used), rewritesCPUID: false)
        #expect(rewriting.sites == [])
        #expect(rewriting.traps == RewriteTraps())
    }

    @Test func `with every port spelled by data the one spelled least is taken`() throws {
        // mov eax, imm32 with OUTs in it; 0x5C comes up once, the others twice.
        func spell(_ port: UInt8) -> [UInt8] { [0xB8, 0xE6, port, 0, 0] }
        let ports = Array(0x5A...0x5F as ClosedRange<UInt8>)
        let code = Self.rdtsc + ports.flatMap(spell) + ports.filter { $0 != 0x5C }.flatMap(spell)
        let rewriting = Rewriting(try Self.plan(code), rewritesCPUID: false)
        #expect(rewriting.sites.map(\.replacement) == [[0xE6, 0x5C]])
    }

    // MARK: Application

    @Test func `the replacement goes where the original is`() throws {
        let code = Self.nop + Self.rdtsc + Self.nop
        let memory = try Self.memory(code)
        try Rewriting(try Self.plan(code), rewritesCPUID: false).apply(to: memory)
        let bytes = try memory.read(GuestPhysicalAddress(Self.base), count: code.count)
        #expect(bytes == Self.nop + [0xE6, 0x5A] + Self.nop)
    }

    @Test func `an image that is not the one is refused, and says where`() throws {
        let rewriting = Rewriting(
            try Self.plan(Self.nop + Self.rdtsc), rewritesCPUID: false)
        let memory = try Self.memory(Self.nop + Self.cpuid)
        #expect {
            try rewriting.apply(to: memory)
        } throws: { error in
            guard case ExecutionError.cannotReplay(let text) = error else { return false }
            return text.contains("0x100001")
        }
        // Nothing was written.
        #expect(try memory.read(GuestPhysicalAddress(Self.base + 1), count: 2) == Self.cpuid)
    }

    @Test func `sites of a trace that do not fit are refused`() throws {
        let memory = try Self.memory(Self.rdtsc)
        var rewriting = Rewriting()
        // Original and replacement of different lengths; an address beyond RAM.
        for (address, replacement) in [(Self.base, [0xE6]), (1 << 40, [0xE6, 0x5A])]
            as [(UInt64, [UInt8])]
        {
            rewriting.sites = [
                RewrittenSite(
                    address: GuestPhysicalAddress(address), original: Self.rdtsc,
                    replacement: replacement)
            ]
            #expect(throws: ExecutionError.self) { try rewriting.apply(to: memory) }
        }
    }

    // MARK: Traps

    private static let traps = {
        var traps = RewriteTraps()
        traps.timeStampPort = 0x5A
        traps.cpuidPort = 0xCB
        return traps
    }()

    /// What an OUT at 0x1000 stands for where these bytes are.
    private static func meaning(
        _ bytes: [UInt8], port: UInt16
    ) throws -> RewriteTraps.Instruction? {
        traps.instruction(
            at: 0x1000, out(port), system: SystemRegisters(),
            memory: try memory(bytes, at: 0x1000))
    }

    @Test func `the bytes say what an OUT stands for`() throws {
        #expect(try Self.meaning([0xE6, 0x5A], port: 0x5A) == .timeStamp)
        #expect(try Self.meaning([0xE6, 0xCB], port: 0xCB) == .cpuid)
    }

    @Test func `an OUT by DX is the guest's own`() throws {
        #expect(try Self.meaning([0xEE, 0x5A], port: 0x5A) == nil)
        #expect(try Self.meaning([0xEE, 0xE6], port: 0xCB) == nil)
        #expect(try Self.meaning([0x6E, 0x90], port: 0x5A) == nil)
    }

    @Test func `an OUT that cannot be read is the guest's own`() throws {
        let memory = try Self.memory([0xE6, 0x5A], at: 0x1000)
        for rip in [0x2000, 0xC000_0000, UInt64.max] {
            let meaning = Self.traps.instruction(
                at: rip, Self.out(0x5A), system: SystemRegisters(), memory: memory)
            #expect(meaning == nil)
        }
    }

    @Test func `port, size and count rule most OUTs out`() {
        #expect(Self.traps.mayBe(Self.out(0x5A)))
        #expect(Self.traps.mayBe(Self.out(0xCB)))
        #expect(!Self.traps.mayBe(Self.out(0x5B)))
        #expect(!Self.traps.mayBe(Self.out(0x15A)))
        #expect(!Self.traps.mayBe(Self.out(0x5A, size: 2)))
        #expect(!Self.traps.mayBe(Self.out(0x5A, count: 2)))
        #expect(!RewriteTraps().mayBe(Self.out(0x5A)))
    }

    @Test func `a trace keeps the traps`() {
        let machine = MachineDescription(ramBytes: 1 << 20, properties: Self.traps.properties)
        #expect(RewriteTraps(machine) == Self.traps)
        #expect(RewriteTraps(MachineDescription(ramBytes: 1 << 20)) == RewriteTraps())
    }
}
