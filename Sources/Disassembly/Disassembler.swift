public import Machine

/// Decodes and prints x86 instructions (with Zydis). A value: no state, usable from any thread.
///
/// Bytes that are no instruction are shown as `(bad)`, one byte at a time; nothing a guest can
/// put in memory makes it fail.
public struct Disassembler: Hashable, Sendable {
    /// How wide code is by default.
    public var width: CodeWidth
    /// How instructions are written.
    public var syntax: Syntax

    /// The longest instruction there is, in bytes (Intel SDM vol. 2, 2.3.11).
    public static let maximumLength = 15

    /// How wide code is by default: what the CPU's mode and the code segment say.
    public enum CodeWidth: String, CaseIterable, Sendable {
        /// Real mode.
        case real16
        /// A 16-bit code segment in protected or compatibility mode.
        case protected16
        /// A 32-bit code segment.
        case protected32
        /// 64-bit mode.
        case long64

        var bits: UInt32 {
            switch self {
            case .real16, .protected16: 16
            case .protected32: 32
            case .long64: 64
            }
        }
    }

    /// How instructions are written.
    public enum Syntax: String, CaseIterable, Sendable {
        /// `out dx, al`
        case intel
        /// `out %al, %dx`
        case att
    }

    /// Makes a disassembler for code of a width.
    public init(_ width: CodeWidth, syntax: Syntax = .intel) {
        self.width = width
        self.syntax = syntax
    }

    /// Makes a disassembler for a mode; compatibility mode is taken for 32-bit code, which it
    /// mostly is (``init(for:syntax:)`` looks at the segment).
    public init(mode: CPUMode, syntax: Syntax = .intel) {
        self.syntax = syntax
        width =
            switch mode {
            case .real: .real16
            case .protected16: .protected16
            case .protected32, .compatibility: .protected32
            case .long: .long64
            }
    }

    /// Makes a disassembler for the code that these registers run.
    public init(for registers: SystemRegisters, syntax: Syntax = .intel) {
        self.init(mode: registers.mode, syntax: syntax)
        if registers.mode == .compatibility, !registers[.cs].db { width = .protected16 }
    }

    /// Decodes the instruction that starts at the first byte.
    ///
    /// - Returns: the instruction, of kind ``Instruction/Kind/bad`` and one byte where there is
    ///   none; nil where there is no byte.
    public func decode(_ bytes: Span<UInt8>, at address: GuestVirtualAddress) -> Instruction? {
        decode(bytes, offset: 0, at: address)
    }

    /// Decodes the instruction that starts at the first byte; see the other form.
    public func decode(_ bytes: [UInt8], at address: GuestVirtualAddress) -> Instruction? {
        decode(bytes.span, offset: 0, at: address)
    }

    /// Decodes instructions one after the other, from the first byte on, until the bytes or the
    /// limit are used up.
    public func disassemble(
        _ bytes: Span<UInt8>, at address: GuestVirtualAddress, limit: Int = .max
    ) -> [Instruction] {
        var listing: [Instruction] = []
        var offset = 0
        while listing.count < limit,
            let next = decode(
                bytes, offset: offset, at: .init(address.rawValue &+ UInt64(offset)))
        {
            listing.append(next)
            offset += next.length
        }
        return listing
    }

    /// Decodes instructions one after the other; see the other form.
    public func disassemble(
        _ bytes: [UInt8], at address: GuestVirtualAddress, limit: Int = .max
    ) -> [Instruction] {
        disassemble(bytes.span, at: address, limit: limit)
    }

    private func decode(
        _ bytes: Span<UInt8>, offset: Int, at address: GuestVirtualAddress
    ) -> Instruction? {
        guard offset >= 0, offset < bytes.count else { return nil }
        var text: String? = ""
        let decoded = decodeFully(bytes, at: offset, address: address.rawValue, text: &text)
        guard let decoded, let text else {
            return Instruction(
                address: address, bytes: copy(bytes, offset..<offset + 1), text: "(bad)",
                mnemonic: "", kind: .bad, isRepeated: false)
        }
        return Instruction(
            address: address, bytes: copy(bytes, offset..<offset + decoded.length), text: text,
            mnemonic: mnemonic(of: decoded), kind: decoded.kind, isRepeated: decoded.isRepeated,
            portAccess: decoded.portAccess,
            target: decoded.target.map { .init($0) })
    }

    private func copy(_ bytes: Span<UInt8>, _ range: Range<Int>) -> [UInt8] {
        range.map { bytes[$0] }
    }
}
