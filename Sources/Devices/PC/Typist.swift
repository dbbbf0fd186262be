/// Presses keys for the user, one after the other at a steady pace, beginning at a set time.
struct Typist: Sendable {
    /// The most that a key sends: pressed and released, with shift around it.
    static let bytesPerKey = 6

    private let text: [UInt8]
    private let interval: UInt64
    private var position = 0
    private var due: UInt64

    /// Makes a typist of ASCII text. Bytes that no key types are left out.
    ///
    /// - Parameters:
    ///   - start: when the first key is pressed, in nanoseconds.
    ///   - interval: from one key to the next, in nanoseconds.
    init(_ text: [UInt8], start: UInt64, interval: UInt64) {
        self.text = text.filter { KeyCodes.key(for: $0) != nil }
        self.interval = max(interval, 1)
        due = start
    }

    /// When something is to be pressed, nil where all is typed.
    var nextPress: UInt64? { position < text.count ? due : nil }

    /// Presses what is due. A key waits while the keyboard does not scan or has no room.
    mutating func press(_ keyboard: inout Keyboard, at now: UInt64) {
        guard due <= now, position < text.count else { return }
        guard let key = KeyCodes.key(for: text[position]) else { return }
        guard keyboard.isScanning, keyboard.room >= Self.bytesPerKey else {
            postpone(now)
            return
        }
        if key.isShifted { _ = keyboard.press(KeyCodes.leftShift) }
        _ = keyboard.press(key.code)
        _ = keyboard.press(0xF0)
        _ = keyboard.press(key.code)
        if key.isShifted {
            _ = keyboard.press(0xF0)
            _ = keyboard.press(KeyCodes.leftShift)
        }
        position += 1
        postpone(now)
    }

    /// The next key comes an interval after this one: keys that waited do not come in a burst.
    private mutating func postpone(_ now: UInt64) {
        let (sum, overflow) = now.addingReportingOverflow(interval)
        due = overflow ? .max : sum
    }
}
