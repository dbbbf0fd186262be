internal import Machine

extension Segment {
    /// What sort of segment it is: `64-bit code, readable`, `data, writable`, `TSS, busy`, `LDT`
    /// (Intel SDM vol. 3, 3.4.5.1 and 3.5).
    func kind(in mode: CPUMode) -> String {
        if unusable { return "unusable" }
        guard s else {
            // The 16-bit types exist in 64-bit mode no more, but are what a CPU has after reset.
            switch type {
            case 1: return "16-bit TSS"
            case 2: return "LDT"
            case 3: return "16-bit TSS, busy"
            case 9: return "TSS"
            case 11: return "TSS, busy"
            default: return "system type \(type)"
            }
        }
        let width = l ? "64-bit" : db ? "32-bit" : "16-bit"
        if type & 8 != 0 {
            return "\(width) code, " + (type & 2 != 0 ? "readable" : "execute only")
                + (type & 4 != 0 ? ", conforming" : "")
        }
        return "data, " + (type & 2 != 0 ? "writable" : "read only")
            + (type & 4 != 0 ? ", expands down" : "")
    }

    /// The rest: privilege level, and what is not as usual.
    var attributes: String {
        if unusable { return "" }
        var text = "dpl \(dpl)"
        if !present { text += ", not present" }
        if g { text += ", 4 KiB units" }
        if avl { text += ", avl" }
        return text
    }
}
