import KVM
import Testing

/// Why tests that need a real /dev/kvm cannot run here, nil where they can.
let kvmProblem: KVMError? = Hypervisor.availability()

extension Trait where Self == ConditionTrait {
    /// Runs a test only where KVM can be used; elsewhere it is skipped with the reason.
    static var needsKVM: Self {
        .enabled(if: kvmProblem == nil, "\(kvmProblem?.description ?? "KVM is there")")
    }
}

@Suite struct ErrorTests {
    @Test("No device, and a file that is no device, are told as such")
    func noDevice() {
        #expect(Hypervisor.availability(path: "/dev/no-kvm") == .noDevice(path: "/dev/no-kvm"))
        #expect(Hypervisor.availability(path: "/dev/null") == .noDevice(path: "/dev/null"))
    }

    @Test("Every error is one line that says what to do or what is wrong")
    func descriptions() {
        let errors: [KVMError] = [
            .noDevice(path: "/dev/kvm"), .noPermission(path: "/dev/kvm"), .apiVersion(found: 11),
            .missingCapability(.immediateExit), .request("KVM_RUN", errno: 14),
            .bufferTooSmall("x", needed: 2, given: 1), .invalidArgument("x"), .malformed("x"),
        ]
        for error in errors {
            #expect(!error.description.isEmpty)
            #expect(!error.description.contains("\n"))
        }
        #expect(KVMError.noPermission(path: "/dev/kvm").description.contains("usermod -aG kvm"))
        #expect(KVMError.request("KVM_RUN", errno: 14).description.contains("Bad address"))
        #expect(
            KVMError.missingCapability(.immediateExit).description.contains(
                "KVM_CAP_IMMEDIATE_EXIT"))
    }
}
