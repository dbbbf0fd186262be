/// One measured figure and what it is held to.
struct Figure {
    /// What was measured.
    var name: String
    /// The figure.
    var value: Double
    /// The unit, as printed after the figure.
    var unit: String
    /// The bound that must hold; nil: shown for information.
    var goal: Goal?
    /// What the figure is made of.
    var note = ""

    /// A bound.
    enum Goal {
        case atMost(Double)
        case atLeast(Double)
    }

    /// Whether the bound holds.
    var holds: Bool {
        switch goal {
        case .none: true
        case .atMost(let bound): value <= bound
        case .atLeast(let bound): value >= bound
        }
    }

    private var goalText: String {
        switch goal {
        case .none: ""
        case .atMost(let bound): "<= \(Self.short(bound))"
        case .atLeast(let bound): ">= \(Self.short(bound))"
        }
    }

    private var verdict: String { goal == nil ? "" : holds ? "holds" : "FAILS" }

    /// Prints the figures as a table.
    static func printTable(_ figures: [Figure]) {
        let rows =
            [["what", "figure", "goal", "", "from"]]
            + figures.map {
                [
                    $0.name, "\(short($0.value))\($0.unit.isEmpty ? "" : " ")\($0.unit)",
                    $0.goalText, $0.verdict, $0.note,
                ]
            }
        let widths = (0..<4).map { column in rows.map { $0[column].count }.max() ?? 0 }
        for row in rows {
            var line = ""
            for (cell, width) in zip(row, widths) { line += pad(cell, to: width) + "  " }
            print(line + row[4])
        }
    }

    /// Prints the figures as JSON, one a line.
    static func printJSON(_ figures: [Figure]) {
        for figure in figures {
            var fields = [
                "\"schema\":\"vmtape.bench/1\"", "\"what\":\"\(figure.name)\"",
                "\"figure\":\(number(figure.value))", "\"unit\":\"\(figure.unit)\"",
            ]
            switch figure.goal {
            case .none: break
            case .atMost(let bound): fields.append("\"atMost\":\(number(bound))")
            case .atLeast(let bound): fields.append("\"atLeast\":\(number(bound))")
            }
            fields.append("\"holds\":\(figure.holds)")
            fields.append("\"from\":\"\(figure.note)\"")
            print("{\(fields.joined(separator: ","))}")
        }
    }

    private static func pad(_ text: String, to width: Int) -> String {
        text + String(repeating: " ", count: max(0, width - text.count))
    }

    /// JSON knows no infinity.
    private static func number(_ value: Double) -> String { value.isFinite ? "\(value)" : "null" }

    /// A number with as many decimals as matter.
    static func short(_ value: Double) -> String {
        guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
        let decimals = abs(value) >= 100 ? 0 : abs(value) >= 10 ? 1 : abs(value) >= 0.01 ? 3 : 6
        var scale = 1.0
        for _ in 0..<decimals { scale *= 10 }
        let scaled = Int((abs(value) * scale).rounded())
        var fraction = decimals == 0 ? "" : String(scaled % Int(scale))
        fraction = String(repeating: "0", count: decimals - fraction.count) + fraction
        while fraction.last == "0" { fraction.removeLast() }
        return (value < 0 && scaled != 0 ? "-" : "") + String(scaled / Int(scale))
            + (fraction.isEmpty ? "" : "." + fraction)
    }
}

/// The middle value; of two, the mean.
func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard let last = sorted.last else { return .nan }
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 || sorted.count < 2
        ? (sorted.count < 2 ? last : sorted[middle]) : (sorted[middle - 1] + sorted[middle]) / 2
}
