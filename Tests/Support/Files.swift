import Glibc

/// Reading and writing whole files.
public enum Files {
    /// The root of this repository.
    public static let repository: String = {
        // Tests/Support/Files.swift
        let parts = #filePath.split(separator: "/").dropLast(3)
        return "/" + parts.joined(separator: "/")
    }()

    /// A committed sample guest.
    public static func sample(_ name: String) -> String { "\(repository)/Samples/bin/\(name)" }

    /// tboot, where there is one: a real guest that nobody here wrote.
    public static let tboot: String? = guest("/boot/tboot.gz")

    /// A file of a package of real guests (tools/apt-packages): as installed, or as tools/ unpacks
    /// it; nil where it is nowhere.
    public static func guest(_ path: String) -> String? {
        [path, "\(repository)/.build/guests\(path)"].first { exists($0) }
    }

    /// Whether there is something at a path.
    public static func exists(_ path: String) -> Bool {
        // SAFETY: Swift passes a NUL-terminated string for the call.
        unsafe access(path, F_OK) == 0
    }

    /// A file's bytes; nil where it cannot be read.
    public static func read(_ path: String) -> [UInt8]? {
        // SAFETY: Swift passes a NUL-terminated string for the call.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65_536)
        while true {
            // SAFETY: read fills at most the chunk's count.
            let count = unsafe Glibc.read(descriptor, &chunk, chunk.count)
            if count < 0 { return nil }
            if count == 0 { return bytes }
            bytes.append(contentsOf: chunk[..<count])
        }
    }

    /// A file's text; nil where it cannot be read.
    public static func text(_ path: String) -> String? {
        read(path).map { String(decoding: $0, as: UTF8.self) }
    }

    /// Creates or replaces a file.
    public static func write(_ path: String, _ bytes: [UInt8]) throws(SupportError) {
        // SAFETY: Swift passes a NUL-terminated string for the call.
        let descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw SupportError(path, errno: errno) }
        defer { close(descriptor) }
        var done = 0
        while done < bytes.count {
            // SAFETY: the rest of the array, alive through the call.
            let count = unsafe bytes[done...].withUnsafeBytes { bytes in
                unsafe Glibc.write(descriptor, bytes.baseAddress, bytes.count)
            }
            guard count > 0 else { throw SupportError(path, errno: errno) }
            done += count
        }
    }

    /// Removes a file; nothing where there is none.
    public static func remove(_ path: String) {
        // SAFETY: Swift passes a NUL-terminated string for the call.
        _ = unsafe unlink(path)
    }

    /// A file's permission bits; nil where there is none.
    public static func mode(_ path: String) -> UInt32? {
        var status = stat()
        // SAFETY: stat fills the one struct it is given.
        guard unsafe stat(path, &status) == 0 else { return nil }
        return status.st_mode & 0o7777
    }

    /// The names in a directory, sorted.
    public static func names(in path: String) -> [String] {
        // SAFETY: entries live until the next readdir, and their names end with a zero.
        guard let directory = unsafe opendir(path) else { return [] }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
                unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) {
                    unsafe String(cString: $0)
                }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    static func removeTree(_ path: String) {
        for name in names(in: path) {
            let child = "\(path)/\(name)"
            var status = stat()
            // SAFETY: lstat fills the one struct it is given; links are not followed.
            guard unsafe lstat(child, &status) == 0 else { continue }
            if status.st_mode & S_IFMT == S_IFDIR { removeTree(child) } else { remove(child) }
        }
        // SAFETY: Swift passes a NUL-terminated string for the call.
        _ = unsafe rmdir(path)
    }
}
