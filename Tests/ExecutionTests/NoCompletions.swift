import Execution
import KVM
import Trace

// CPUs, worlds and listeners of tests that have nothing to do with completions.

extension Processor where Self: ~Copyable {
    mutating func extendedState() throws(KVMError) -> ExtendedState {
        throw .invalidArgument("this CPU completes nothing")
    }

    mutating func apply(_ changes: [Change]) throws(KVMError) {}
}

extension World where Self: ~Copyable {
    mutating func completesInstruction() throws(ExecutionError) -> Bool { false }

    mutating func changesToMake(_ carriedOut: [Change]?) throws(ExecutionError) -> [Change]? {
        carriedOut
    }
}

extension RunListener where Self: ~Copyable {
    mutating func completion(_ changes: [Change]) throws(ExecutionError) -> Bool { true }
}
