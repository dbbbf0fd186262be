internal import Analysis
internal import Glibc
internal import Synchronization

/// The line on a terminal that says how far something is; it rewrites itself and then goes.
final class StatusLine: Sendable {
    private let isOn: Bool
    private let width: Int
    private let isShown = Atomic<Bool>(false)
    private let shownAt = Atomic<UInt64>(0)
    /// Not before this, so that what is quickly done does not flicker.
    private static let firstMilliseconds: UInt64 = 300
    private static let intervalMilliseconds: UInt64 = 200

    /// - Parameter isWanted: false where the terminal belongs to the guest.
    init(isWanted: Bool = true) {
        let terminal = Terminal(STDERR_FILENO)
        isOn = isWanted && terminal.isTerminal
        width = terminal.width
    }

    /// Shows a text if it is time to; called from one thread.
    func update(milliseconds now: UInt64, _ text: () -> String) {
        let last = shownAt.load(ordering: .relaxed)
        let isDue =
            last == 0 ? now >= Self.firstMilliseconds : now >= last + Self.intervalMilliseconds
        guard isOn, isDue else { return }
        shownAt.store(now, ordering: .relaxed)
        isShown.store(true, ordering: .relaxed)
        let stream = OutputStream(descriptor: STDERR_FILENO)
        stream.write("\r\u{1B}[K")
        stream.write(String(text().prefix(max(1, width - 1))))
        stream.flush()
    }

    /// Takes the line away.
    func clear() {
        guard isShown.exchange(false, ordering: .relaxed) else { return }
        let stream = OutputStream(descriptor: STDERR_FILENO)
        stream.write("\r\u{1B}[K")
        stream.flush()
    }
}
