public import Disassembly
public import Machine

/// The guest's code as it was loaded, with the bytes that vmtape rewrote as they were before.
///
/// It knows images and not RAM: code that the guest wrote or unpacked itself is not in here, and
/// code that it changed is shown as it was.
public struct CodeBytes: Sendable {
    private struct Stretch: Sendable {
        var address: UInt64
        var bytes: ArraySlice<UInt8>
    }

    private var stretches: [Stretch] = []
    private var patches: [(address: UInt64, original: [UInt8])] = []

    /// Knows no code.
    public init() {}

    /// Whether there is none.
    public var isEmpty: Bool { stretches.isEmpty }

    /// Adds bytes at the address they are executed at; what was added first wins.
    public mutating func add(_ bytes: ArraySlice<UInt8>, at address: UInt64) {
        guard !bytes.isEmpty else { return }
        stretches.append(Stretch(address: address, bytes: bytes))
    }

    /// Adds the original bytes of a rewritten instruction.
    public mutating func addOriginal(_ bytes: [UInt8], at address: UInt64) {
        patches.append((address, bytes))
    }

    /// Up to `count` bytes from an address on; fewer where no more are known.
    public func bytes(at address: UInt64, count: Int = Disassembler.maximumLength) -> [UInt8] {
        for stretch in stretches {
            let offset = address &- stretch.address
            guard offset < UInt64(stretch.bytes.count) else { continue }
            let start = stretch.bytes.startIndex + Int(offset)
            var found = Array(stretch.bytes[start..<min(start + count, stretch.bytes.endIndex)])
            for patch in patches {
                for (index, byte) in patch.original.enumerated() {
                    let place = patch.address &+ UInt64(index) &- address
                    if place < UInt64(found.count) { found[Int(place)] = byte }
                }
            }
            return found
        }
        return []
    }

    /// The instruction at an address, as a CPU with these registers reads it; nil where no byte
    /// of it is known.
    public func instruction(
        at address: UInt64, for registers: SystemRegisters
    ) -> Instruction? {
        Disassembler(for: registers).decode(bytes(at: address), at: GuestVirtualAddress(address))
    }
}
