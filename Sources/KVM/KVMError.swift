internal import CKVM
internal import Glibc

/// Why something asked of KVM could not be had. Its ``description`` is one line for a person.
public enum KVMError: Error, Equatable, Sendable, CustomStringConvertible {
    /// There is no `/dev/kvm`.
    case noDevice(path: String)
    /// `/dev/kvm` is there and may not be opened.
    case noPermission(path: String)
    /// The kernel speaks another version of the interface than 12.
    case apiVersion(found: Int)
    /// The kernel lacks something that cannot be done without.
    case missingCapability(Capability)
    /// A request failed: its name as the kernel's documentation spells it, and errno.
    case request(String, errno: Int32)
    /// A caller's buffer is too small; sizes in bytes.
    case bufferTooSmall(String, needed: Int, given: Int)
    /// An argument that KVM has no place for.
    case invalidArgument(String)
    /// The kernel gave back something that is not of the documented form.
    case malformed(String)

    /// What is wrong, where, and what to do about it.
    public var description: String {
        switch self {
        case .noDevice(let path):
            "\(path) does not exist: load KVM (modprobe kvm_intel or kvm_amd), enable "
                + "virtualisation in the firmware, or run in a VM with nested virtualisation"
        case .noPermission(let path):
            "no permission to open \(path): join its group (sudo usermod -aG kvm $USER, then log "
                + "in again)"
        case .apiVersion(let found):
            "KVM API version is \(found), and 12 is needed: use Linux 2.6.22 or later"
        case .missingCapability(let capability):
            "the kernel's KVM lacks \(capability.name): use a later kernel"
        case .request(let name, let code):
            "\(name) failed: \(Self.text(ofErrno: code)) (errno \(code))"
        case .bufferTooSmall(let what, let needed, let given):
            "buffer for \(what) holds \(given) bytes, and \(needed) are needed"
        case .invalidArgument(let what): what
        case .malformed(let what): "KVM returned \(what)"
        }
    }

    static func text(ofErrno code: Int32) -> String {
        // SAFETY: strerror returns a NUL-terminated string for every number; it is copied at once.
        guard let text = unsafe strerror(code) else { return "error \(code)" }
        return unsafe String(cString: text)
    }

    /// The value of a shim's result, or the error that it stands for.
    @discardableResult
    @inline(__always)
    static func check(_ result: Int, _ name: StaticString) throws(KVMError) -> Int {
        if result < 0 { throw failure(result, name) }
        return result
    }

    @inline(never)
    static func failure(_ result: Int, _ name: StaticString) -> KVMError {
        .request(name.description, errno: Int32(truncatingIfNeeded: -result))
    }
}
