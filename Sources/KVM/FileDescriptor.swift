internal import CKVM

/// A descriptor of ours, closed when its owner goes.
struct FileDescriptor: ~Copyable, Sendable {
    let number: Int32

    /// Takes over what a shim returned; the name of the request goes into the error.
    init(_ result: Int, _ name: StaticString) throws(KVMError) {
        number = Int32(truncatingIfNeeded: try KVMError.check(result, name))
    }

    deinit { ckvm_close(number) }
}
