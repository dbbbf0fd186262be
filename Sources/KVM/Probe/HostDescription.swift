internal import CKVM
internal import Glibc
internal import Machine

/// What the host says of itself: told in traces, never compared.
enum HostDescription {
    static func facts(_ hypervisor: borrowing Hypervisor) -> [HostFact] {
        [
            HostFact(
                "host.kernel", readLine("/proc/sys/kernel/osrelease") ?? "unknown", .description),
            HostFact("host.cpu.vendor", vendor, .description),
            HostFact("host.cpu.model", model, .description),
            HostFact("host.hypervisor", outerHypervisor, .description),
            HostFact("kvm.modules", modules, .description),
            HostFact("kvm.api-version", "\(CKVM_API_VERSION)", .description),
            HostFact("kvm.tsc-khz", tscKilohertz(hypervisor), .description),
            HostFact(
                "kvm.tsc-scaling", hypervisor.check(.tscControl) > 0 ? "yes" : "no", .description),
        ]
    }

    /// The four words of a CPUID leaf of the CPU this runs on.
    private static func cpuid(_ function: UInt32) -> [UInt32] {
        var words: [UInt32] = [0, 0, 0, 0]
        unsafe words.withUnsafeMutableBufferPointer { words in
            guard let base = words.baseAddress else { return }
            // SAFETY: four words are written, and there is room for four.
            unsafe ckvm_host_cpuid(function, 0, base)
        }
        return words
    }

    /// Words as the text that CPUID hides in them.
    private static func text(_ words: [UInt32]) -> String {
        let bytes = words.flatMap { word in
            (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32($0 * 8)) }
        }
        let printable = bytes.prefix { $0 != 0 }.filter { $0 >= 0x20 && $0 < 0x7F }
        let text = String(decoding: printable, as: UTF8.self)
        return String(text.drop { $0 == " " }.reversed().drop { $0 == " " }.reversed())
    }

    private static var vendor: String {
        let words = cpuid(0)
        return text([words[1], words[3], words[2]])
    }

    private static var model: String {
        guard cpuid(0x8000_0000)[0] >= 0x8000_0004 else { return "unknown" }
        return text(cpuid(0x8000_0002) + cpuid(0x8000_0003) + cpuid(0x8000_0004))
    }

    /// The hypervisor this host is itself a guest of, `none` on bare metal.
    private static var outerHypervisor: String {
        guard cpuid(1)[2] >> 31 != 0 else { return "none" }
        let name = text(Array(cpuid(0x4000_0000)[1...]))
        return name.isEmpty ? "unknown" : name
    }

    /// The loaded modules of KVM, by name; `built-in` where there are none.
    private static var modules: String {
        let known = ["kvm", "kvm_intel", "kvm_amd", "kvm_pvm"]
        // SAFETY: the string outlives the call that reads it.
        let loaded = known.filter { name in
            unsafe "/sys/module/\(name)".withCString { unsafe access($0, F_OK) == 0 }
        }
        return loaded.isEmpty ? "built-in" : loaded.joined(separator: ",")
    }

    private static func tscKilohertz(_ hypervisor: borrowing Hypervisor) -> String {
        do throws(KVMError) {
            return "\(try hypervisor.createMachine().createCPU().tscKilohertz())"
        } catch {
            return "unknown"
        }
    }

    /// The first line of a small file.
    private static func readLine(_ path: String) -> String? {
        // SAFETY: the string outlives the call that reads it.
        let descriptor = unsafe path.withCString { unsafe open($0, O_RDONLY | O_CLOEXEC) }
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = unsafe bytes.withUnsafeMutableBytes { bytes in
            // SAFETY: no more is asked for than there is room for.
            unsafe read(descriptor, bytes.baseAddress, bytes.count)
        }
        guard count > 0 else { return nil }
        return String(decoding: bytes.prefix(count).prefix { $0 != 0x0A }, as: UTF8.self)
    }
}
