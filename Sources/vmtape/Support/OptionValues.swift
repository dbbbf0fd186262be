internal import ArgumentParser
internal import Machine

/// A size in bytes as people write it: `65536`, `0x10000`, `64K`, `64M`, `2GiB`.
struct ByteSize: ExpressibleByArgument, Equatable {
    let bytes: UInt64

    init(bytes: UInt64) { self.bytes = bytes }

    init?(argument: String) {
        var text = Substring(argument)
        for suffix in ["iB", "ib", "B", "b"] where text.hasSuffix(suffix) {
            text = text.dropLast(suffix.count)
            break
        }
        let units: [Character: UInt64] = ["k": 10, "m": 20, "g": 30, "t": 40]
        var shift: UInt64 = 0
        if let unit = text.last.flatMap({ units[Character($0.lowercased())] }) {
            shift = unit
            text = text.dropLast()
        }
        guard let number = Number.parse(text) else { return nil }
        let (bytes, overflow) = number.multipliedReportingOverflow(by: 1 << shift)
        guard !overflow else { return nil }
        self.bytes = bytes
    }

    var defaultValueDescription: String { ByteSize.text(bytes) }

    /// `64 MiB` where that is exact, else to two digits after the point.
    static func text(_ bytes: UInt64) -> String {
        for (name, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            let unit: UInt64 = 1 << UInt64(shift)
            guard bytes >= unit else { continue }
            if bytes % unit == 0 { return "\(bytes / unit) \(name)" }
            let hundredths = bytes / unit * 100 + bytes % unit * 100 / unit
            return
                "\(hundredths / 100).\(hundredths % 100 < 10 ? "0" : "")\(hundredths % 100) \(name)"
        }
        return "\(bytes) B"
    }
}

/// A span of time as people write it: `30`, `30s`, `500ms`, `2m`, `1h`; plain numbers are seconds.
struct Duration: ExpressibleByArgument, Equatable {
    let milliseconds: UInt64

    init?(argument: String) {
        let units: [(String, UInt64)] = [
            ("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("", 1000),
        ]
        for (suffix, factor) in units where argument.hasSuffix(suffix) {
            guard let number = UInt64(argument.dropLast(suffix.count)), number > 0 else { continue }
            let (milliseconds, overflow) = number.multipliedReportingOverflow(by: factor)
            guard !overflow else { return nil }
            self.milliseconds = milliseconds
            return
        }
        return nil
    }
}

/// An address or number: decimal, or hexadecimal after `0x`.
struct Number: ExpressibleByArgument, Equatable {
    let value: UInt64

    init?(argument: String) {
        guard let value = Self.parse(Substring(argument)) else { return nil }
        self.value = value
    }

    static func parse(_ text: Substring) -> UInt64? {
        let digits = text.filter { $0 != "_" }
        if digits.hasPrefix("0x") || digits.hasPrefix("0X") {
            return UInt64(digits.dropFirst(2), radix: 16)
        }
        return UInt64(digits)
    }
}

/// A range of exits: `N`, `FIRST..LAST`, `FIRST..`, `..LAST`; both ends included.
struct ExitRange: ExpressibleByArgument, Equatable {
    let first: UInt64
    let last: UInt64

    init(first: UInt64, last: UInt64) {
        self.first = first
        self.last = last
    }

    init?(argument: String) {
        if let dots = argument.firstRange(of: "..") {
            let lower = argument[..<dots.lowerBound]
            let upper = argument[dots.upperBound...]
            guard let first = lower.isEmpty ? 0 : Number.parse(lower),
                let last = upper.isEmpty ? UInt64.max : Number.parse(upper), first <= last
            else { return nil }
            self.init(first: first, last: last)
        } else {
            guard let only = Number.parse(Substring(argument)) else { return nil }
            self.init(first: only, last: only)
        }
    }
}
