import Glibc
import TestSupport
import Testing

/// Whether guests can be run here, and why not.
enum RealKVM {
    static let error: String? = {
        // SAFETY: a constant string.
        let descriptor = unsafe open("/dev/kvm", O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else {
            return errno == ENOENT ? "there is no /dev/kvm" : "/dev/kvm cannot be opened"
        }
        close(descriptor)
        return nil
    }()
    static var isThere: Bool { error == nil }
    static var comment: Comment { "needs KVM: \(error ?? "it is there")" }
}

/// Whether snapshots are written instead of compared.
let updatesSnapshots: Bool = {
    // SAFETY: only whether it is set is looked at.
    unsafe getenv("VMTAPE_UPDATE_SNAPSHOTS") != nil
}()

/// Compares text with a file under Snapshots; VMTAPE_UPDATE_SNAPSHOTS=1 writes the file instead.
func expectSnapshot(
    _ text: String, _ name: String, sourceLocation: SourceLocation = #_sourceLocation
) throws {
    let path = "\(Files.repository)/Tests/vmtapeTests/Snapshots/\(name)"
    if updatesSnapshots {
        try Files.write(path, Array(text.utf8))
        return
    }
    guard let wanted = Files.text(path) else {
        Issue.record(
            "\(path) is missing: run with VMTAPE_UPDATE_SNAPSHOTS=1",
            sourceLocation: sourceLocation)
        return
    }
    guard wanted != text else { return }
    let pair = (
        wanted.split(separator: "\n", omittingEmptySubsequences: false),
        text.split(separator: "\n", omittingEmptySubsequences: false)
    )
    let first = zip(pair.0, pair.1).enumerated().first { $1.0 != $1.1 }
    Issue.record(
        """
        \(name) differs from line \((first?.offset ?? min(pair.0.count, pair.1.count)) + 1) on:
          expected: \(first.map { String($1.0) } ?? "\(pair.0.count) lines")
          is:       \(first.map { String($1.1) } ?? "\(pair.1.count) lines")
        run with VMTAPE_UPDATE_SNAPSHOTS=1 if this is meant
        """, sourceLocation: sourceLocation)
}

extension ChildProcess.Result {
    /// Expects one clear line on stderr, nothing on stdout, and status 2.
    func expectOneLine(
        _ parts: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(ending == .status(2), sourceLocation: sourceLocation)
        #expect(output == "", sourceLocation: sourceLocation)
        #expect(errorLines.count == 1, "\(errors)", sourceLocation: sourceLocation)
        #expect(errors.hasPrefix("vmtape: "), "\(errors)", sourceLocation: sourceLocation)
        #expect(errors.hasSuffix("\n"), sourceLocation: sourceLocation)
        for part in parts {
            #expect(errors.contains(part), "\(errors)", sourceLocation: sourceLocation)
        }
        // A trap or a stack of nested errors is no message for a person.
        #expect(!errors.contains("Error("), "\(errors)", sourceLocation: sourceLocation)
        #expect(!errors.contains("Optional("), "\(errors)", sourceLocation: sourceLocation)
    }
}

/// A guest that counts its own exits where everybody can see them: a newline on the debug console
/// each time, and loops of so many rounds before it. For ever.
///
///     again: mov cx, rounds; here: loop here; mov al, 10; out 0xe9, al; jmp again
func countingGuest(rounds: UInt16) -> [UInt8] {
    [
        0xB9, UInt8(rounds & 0xFF), UInt8(rounds >> 8), 0xE2, 0xFE, 0xB0, 0x0A, 0xE6, 0xE9, 0xEB,
        0xF5,
    ]
}

/// A guest that reads the serial port's line status for ever: an exit each time, and no output but
/// a first `!`.
///
///     mov al, '!'; out 0xe9, al; mov dx, 0x3fd; again: in al, dx; jmp again
let pollingGuest: [UInt8] = [
    0xB0, 0x21, 0xE6, 0xE9, 0xB0, 0x0A, 0xE6, 0xE9, 0xBA, 0xFD, 0x03, 0xEC, 0xEB, 0xFD,
]
