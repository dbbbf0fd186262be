#if canImport(Glibc)
    private import Glibc
#endif
import Synchronization

/// Where a trace's bytes come from: a file, or memory. May be used from several threads.
final class ByteSource: Sendable {
    private enum Kind: ~Copyable, Sendable {
        case file(Descriptor)
        case memory([UInt8])
    }

    private let kind: Kind
    /// The file, or a name for the bytes.
    let name: String
    let size: UInt64
    private let reads = Atomic<UInt64>(0)
    private let bytes = Atomic<UInt64>(0)

    /// How often something was read, and how many bytes in all.
    var statistics: (reads: UInt64, bytes: UInt64) {
        (reads.load(ordering: .relaxed), bytes.load(ordering: .relaxed))
    }

    init(path: String) throws(TraceError) {
        name = path
        do throws(SystemError) {
            let file = try Descriptor(path, flags: O_RDONLY | O_NONBLOCK)
            size = try file.regularFileSize()
            kind = .file(file)
        } catch {
            if error.number == EINVAL {
                throw TraceError(.notATrace, file: path, "this is no regular file")
            }
            throw TraceError(error, file: path, "cannot open the trace")
        }
    }

    init(bytes: [UInt8], name: String) {
        self.name = name
        size = UInt64(bytes.count)
        kind = .memory(bytes)
    }

    /// Replaces `buffer` with `count` bytes from `offset`, fewer where the file ends.
    func read(
        _ count: Int, at offset: UInt64, into buffer: inout ByteBuffer
    ) throws(TraceError) {
        buffer.removeAll()
        reads.add(1, ordering: .relaxed)
        guard offset < size else { return }
        let available = Int(min(UInt64(count), size - offset))
        bytes.add(UInt64(available), ordering: .relaxed)
        switch kind {
        case .file(let file):
            do throws(SystemError) {
                // SAFETY: `reserve` made the room.
                let to = unsafe buffer.reserve(available)
                buffer.setCount(try unsafe file.read(to: to, count: available, at: offset))
            } catch { throw TraceError(error, file: name, "cannot read the trace") }
        case .memory(let array):
            // SAFETY: the array outlives the copy; the range lies within it.
            unsafe array.withUnsafeBytes {
                let from = Int(offset)
                unsafe buffer.append(
                    UnsafeRawBufferPointer(rebasing: $0[from..<from + available]))
            }
        }
    }

    /// An error about this file.
    func damaged(_ offset: UInt64?, _ what: String) -> TraceError {
        TraceError(.damaged, file: name, offset: offset, what)
    }
}
