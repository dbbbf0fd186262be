internal import CKVM
internal import Glibc
public import Machine

/// `/dev/kvm`, opened: what KVM offers on this host, and the maker of virtual machines.
public struct Hypervisor: ~Copyable, Sendable {
    let descriptor: FileDescriptor
    /// The size of a vCPU's run page in bytes (KVM_GET_VCPU_MMAP_SIZE).
    let runPageBytes: Int

    /// Opens KVM and checks its version (KVM_GET_API_VERSION must be 12).
    public init(path: String = "/dev/kvm") throws(KVMError) {
        // SAFETY: the string outlives the call that reads it.
        let result = unsafe path.withCString { unsafe ckvm_open($0) }
        switch Int32(truncatingIfNeeded: -result) {
        case ENOENT, ENXIO, ENODEV: throw .noDevice(path: path)
        case EACCES, EPERM: throw .noPermission(path: path)
        default: break
        }
        let descriptor = try FileDescriptor(result, "opening /dev/kvm")
        let version = ckvm_get_api_version(descriptor.number)
        // A file that is not KVM's answers ENOTTY.
        guard version >= 0 else { throw .noDevice(path: path) }
        guard version == CKVM_API_VERSION else {
            throw .apiVersion(found: version)
        }
        let runPageBytes = try KVMError.check(
            ckvm_get_vcpu_mmap_size(descriptor.number), "KVM_GET_VCPU_MMAP_SIZE")
        guard runPageBytes >= Int(CKVM_RUN_BYTES) else {
            throw .malformed("a run page of \(runPageBytes) bytes")
        }
        for needed in [Capability.userMemory, .extendedCPUID, .immediateExit, .vcpuEvents]
        where ckvm_check_extension(descriptor.number, UInt(needed.rawValue)) <= 0 {
            throw .missingCapability(needed)
        }
        self.runPageBytes = runPageBytes
        self.descriptor = descriptor
    }

    /// Whether KVM can be used here; the reason if it cannot.
    public static func availability(path: String = "/dev/kvm") -> KVMError? {
        do throws(KVMError) {
            _ = try Hypervisor(path: path)
            return nil
        } catch {
            return error
        }
    }

    /// The value of a capability: 0 where it is missing, else 1 or what its documentation says
    /// (KVM_CHECK_EXTENSION).
    public func check(_ capability: Capability) -> Int {
        max(0, ckvm_check_extension(descriptor.number, UInt(capability.rawValue)))
    }

    /// Makes a virtual machine without memory and CPUs (KVM_CREATE_VM).
    public func createMachine() throws(KVMError) -> VirtualMachine {
        try VirtualMachine(
            FileDescriptor(ckvm_create_vm(descriptor.number), "KVM_CREATE_VM"),
            runPageBytes: runPageBytes)
    }

    /// What CPUID may show to a guest (KVM_GET_SUPPORTED_CPUID), in the kernel's order.
    public func supportedCPUID() throws(KVMError) -> [CPUIDEntry] {
        let number = descriptor.number
        return try unsafe readCPUIDTable("KVM_GET_SUPPORTED_CPUID") { list in
            // SAFETY: the list has room for the entries its header states.
            unsafe ckvm_get_supported_cpuid(number, list)
        }
    }

    /// The MSRs that save and restore a guest (KVM_GET_MSR_INDEX_LIST), in the kernel's order.
    public func savedMSRIndices() throws(KVMError) -> [UInt32] {
        var list = KernelList(
            capacity: 1024, headerBytes: Int(CKVM_MSR_LIST_HEADER_BYTES), entryBytes: 4)
        let number = descriptor.number
        let result = unsafe list.bytes.withUnsafeMutableBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            // SAFETY: the list has room for the entries its header states.
            return unsafe ckvm_get_msr_index_list(number, base)
        }
        try KVMError.check(result, "KVM_GET_MSR_INDEX_LIST")
        return (0..<list.count).map { list.word32($0, at: 0) }
    }
}

/// Reads a `struct kvm_cpuid2` through a request, with room for more rows until it fits.
func readCPUIDTable(
    _ name: StaticString, _ request: (UnsafeMutableRawPointer) -> Int
) throws(KVMError) -> [CPUIDEntry] {
    var capacity = 256
    while true {
        var list = KernelList(
            capacity: capacity, headerBytes: Int(CKVM_CPUID_HEADER_BYTES), entryBytes: 40)
        let result = unsafe list.bytes.withUnsafeMutableBytes { bytes -> Int in
            guard let base = bytes.baseAddress else { return 0 }
            return unsafe request(base)
        }
        if result == -Int(E2BIG), capacity < 16384 {
            capacity *= 2
            continue
        }
        try KVMError.check(result, name)
        return (0..<list.count).map { row in
            CPUIDEntry(
                function: list.word32(row, at: 0), index: list.word32(row, at: 4),
                isIndexSignificant: list.word32(row, at: 8) & 1 != 0,
                eax: list.word32(row, at: 12), ebx: list.word32(row, at: 16),
                ecx: list.word32(row, at: 20), edx: list.word32(row, at: 24))
        }
    }
}
