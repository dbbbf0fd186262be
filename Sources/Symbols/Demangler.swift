internal import CDemangle
internal import Glibc

/// Turns the linker's names into those that people write: Swift's by the Swift runtime, C++'s by
/// the C++ library that the Swift runtime stands on. A name neither knows stays as it is.
public enum Demangler {
    /// Longer names stay mangled: the demanglers recurse, and a file may hold any name.
    static let longestName = 2048

    /// The name as people write it, without characters that move a terminal's cursor.
    public static func demangled(_ name: String) -> String {
        guard name.utf8.count <= longestName else { return printable(name) }
        let isSwift = ["$s", "$S", "$e", "_$s", "_$S", "_$e", "_T0"].contains {
            name.hasPrefix($0)
        }
        if isSwift { return printable(swift(name) ?? name) }
        if name.hasPrefix("_Z") { return printable(cplusplus(name) ?? name) }
        return printable(name)
    }

    /// The name as people write it without parameters, results, generic clauses and the way it
    /// was specialised, for narrow columns: `app.Port.write` for
    /// `app.Port.write(Swift.UInt8) -> Swift.UInt16`, `shapes::area<int>` for
    /// `int shapes::area<int>(int, int)`.
    public static func abbreviated(_ name: String) -> String {
        let full = demangled(name)
        if full == name { return full }
        return name.hasPrefix("_Z") ? withoutCXXTypes(full) : withoutSwiftTypes(full)
    }

    private static func withoutSwiftTypes(_ name: String) -> String {
        var kept = ""
        var depth = 0
        var isResult = false
        for index in name.indices {
            let rest = name[index...]
            switch name[index] {
            // An arrow's head closes nothing.
            case ">" where kept.hasSuffix("-"): if !isResult { kept.append(">") }
            case "(" where depth > 0 || !rest.hasPrefix("(extension "), "<": depth += 1
            case ")" where depth > 0, ">" where depth > 0 && !name[..<index].hasSuffix("-"):
                depth -= 1
            default:
                guard depth == 0 else { continue }
                if rest.hasPrefix(" -> ") || rest.hasPrefix(" : ") { isResult = true }
                // "closure #1 (A) -> B in f(A) -> B": what it is in goes on after its result.
                if rest.hasPrefix(" in ") || rest.hasPrefix(" of ") { isResult = false }
                let isDoubleBlank = name[index] == " " && kept.hasSuffix(" ")
                if !isResult, !isDoubleBlank { kept.append(name[index]) }
            }
        }
        guard kept.contains(" specialization ") else { return kept }
        var parts = kept.split(separator: " ")
        if let of = parts.lastIndex(of: "of"), of + 1 < parts.count {
            parts.removeFirst(of + 1)
        }
        return parts.joined(separator: " ")
    }

    private static func withoutCXXTypes(_ name: String) -> String {
        var depth = 0
        var start = name.startIndex
        for index in name.indices {
            let rest = name[index...]
            switch name[index] {
            case "(":
                let isName = rest.hasPrefix("(anonymous ") || rest.hasPrefix("(lambda")
                if depth == 0, index > start, !isName, !name[..<index].hasSuffix("operator") {
                    return String(name[start..<index])
                }
                depth += 1
            case "<" where !name[..<index].hasSuffix("operator"): depth += 1
            case ")" where depth > 0, ">" where depth > 0: depth -= 1
            case " " where depth == 0 && !name[..<index].hasSuffix("operator"):
                start = name.index(after: index)
            default: break
            }
        }
        return String(name[start...])
    }

    private static func swift(_ name: String) -> String? {
        let name = name.hasPrefix("_$") ? String(name.dropFirst()) : name
        return unsafe name.withCString { characters in
            // SAFETY: the runtime reads `utf8.count` bytes of a string that outlives the call;
            // what it returns is a C string of malloc, copied and freed by `take`.
            unsafe take(swift_demangle(characters, name.utf8.count, nil, nil, 0))
        }
    }

    private typealias CXXDemangle =
        @convention(c) (
            UnsafePointer<CChar>, UnsafeMutablePointer<CChar>?, UnsafeMutablePointer<Int>?,
            UnsafeMutablePointer<Int32>?
        ) -> UnsafeMutablePointer<CChar>?

    /// `__cxa_demangle` of the Itanium C++ ABI, where the process has it: libstdc++ comes with the
    /// Swift runtime, but its link-time half may not be installed.
    private static let cxxDemangle: CXXDemangle? = {
        // SAFETY: a null handle means the default search order (RTLD_DEFAULT of dlfcn.h); the ABI
        // fixes the type of the function of that name.
        guard let symbol = unsafe dlsym(nil, "__cxa_demangle") else { return nil }
        return unsafe unsafeBitCast(symbol, to: CXXDemangle.self)
    }()

    private static func cplusplus(_ name: String) -> String? {
        guard let demangle = unsafe cxxDemangle else { return nil }
        return unsafe name.withCString { characters in
            // SAFETY: `characters` is a C string; the result is as in `swift(_:)`.
            unsafe take(demangle(characters, nil, nil, nil))
        }
    }

    private static func take(_ text: UnsafeMutablePointer<CChar>?) -> String? {
        guard let text = unsafe text else { return nil }
        // SAFETY: both demanglers return a C string that is ours to free.
        let copy = unsafe String(cString: text)
        unsafe free(text)
        return copy.isEmpty ? nil : copy
    }

    /// Control characters replaced: symbol tables come from files that nobody has vetted.
    static func printable(_ text: String) -> String {
        let isPlain = text.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7F }
        if isPlain { return text }
        var result = ""
        for scalar in text.unicodeScalars {
            let isControl = scalar.value < 0x20 || (0x7F..<0xA0).contains(scalar.value)
            result.unicodeScalars.append(isControl ? "\u{FFFD}" : scalar)
        }
        return result
    }
}
