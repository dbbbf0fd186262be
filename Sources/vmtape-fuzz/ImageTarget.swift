internal import Guest
internal import Machine

/// Recognition and loading of a guest image, with small RAM.
///
/// The first three bytes choose kind, RAM size and options; the rest is the file.
enum ImageTarget {
    static let prefixBytes = 3

    static func run(_ input: [UInt8]) {
        guard input.count >= prefixBytes else { return }
        var options = LoadOptions()
        let kinds: [GuestKind?] = [nil] + GuestKind.allCases
        options.kind = kinds[Int(input[0]) % kinds.count]
        let bytes = Array(input[prefixBytes...])
        if input[2] & 1 != 0 { options.commandLine = "one two=three" }
        if input[2] & 2 != 0 { options.loadAddress = UInt64(input[2] & 0xF0) << 12 }
        if input[2] & 4 != 0 { options.entry = UInt64(input[2] & 0xF0) << 12 | 0xFFF }
        if input[2] & 8 != 0 {
            options.modules = [GuestModule(file: GuestFile(name: "module", bytes: bytes))]
        }
        guard
            let ram = try? RAMLayout(lengthInBytes: UInt64(64 << 10) << UInt64(input[1] % 8)),
            let plan = try? LoadPlan(
                image: GuestFile(name: "image", bytes: bytes), options: options, ram: ram)
        else { return }
        check(plan)
    }

    private static func check(_ plan: LoadPlan) {
        for write in plan.writes {
            let start = write.address.rawValue
            let isROM = start >= (4 << 30) - plan.romLengthInBytes
            require(
                isROM || plan.ram.contains(start, UInt64(write.bytes.count)),
                "every write of a plan lies in memory")
        }
        for code in plan.code {
            require(
                code.fileRange.lowerBound >= 0 && code.fileRange.upperBound <= plan.image.count,
                "code lies in the image")
        }
        guard
            let memory = try? GuestMemory(
                layout: plan.ram, romLengthInBytes: plan.romLengthInBytes)
        else { return }
        do throws(GuestError) { try plan.apply(to: memory) } catch {
            require(false, "what was planned can be loaded")
        }
        guard let again = try? LoadPlan(records: plan.records) else {
            require(false, "what was loaded can be loaded from its records")
            return
        }
        require(
            again.writes == plan.writes && again.registers == plan.registers
                && again.systemRegisters == plan.systemRegisters,
            "the load from records is the same")
    }
}
