/// An 8254 counter stepped CLK by CLK, as the data sheet tells the story; to hold the one that
/// computes against.
struct ReferenceCounter {
    var mode = 0
    var isBCD = false
    var gate: Bool
    /// The counting element, as a number.
    var element = 0
    var output = true
    /// The count register.
    var register = 0
    /// The element holds a count of this programming.
    var isLoaded = false

    private var hasCount = false
    private var loadsNext = false
    private var isDone = false
    private var isHighHalf = true
    private var isStopped = true
    /// Whether the count that is in the element was odd when it was loaded.
    private var isOdd = false

    init(gate: Bool) { self.gate = gate }

    private var modulus: Int { isBCD ? 10_000 : 0x10000 }

    mutating func control(mode: Int, isBCD: Bool) {
        self.mode = mode
        self.isBCD = isBCD
        output = mode != 0
        hasCount = false
        loadsNext = false
        isLoaded = false
        isStopped = true
        isDone = false
    }

    /// The first of two bytes.
    mutating func writeHalf() {
        guard mode == 0 else { return }
        output = false
        isStopped = true
        isLoaded = false
        loadsNext = false
    }

    mutating func write(_ count: Int) {
        register = count == 0 ? modulus : count
        defer { hasCount = true }
        switch mode {
        case 0:
            output = false
            loadsNext = true
        case 4: loadsNext = true
        case 2, 3: if !hasCount { loadsNext = true }
        default: break
        }
    }

    mutating func setGate(_ high: Bool) {
        let rises = high && !gate
        let falls = !high && gate
        gate = high
        switch mode {
        case 1, 5: if rises && hasCount { loadsNext = true }
        case 2, 3:
            guard hasCount else { return }
            if rises { loadsNext = true }
            if falls && !isStopped { output = true }
        default: break
        }
    }

    /// One CLK. True if OUT rose.
    mutating func step() -> Bool {
        let before = output
        if loadsNext {
            loadsNext = false
            isLoaded = true
            isStopped = false
            isDone = false
            isHighHalf = true
            element = register
            isOdd = register & 1 != 0
            if mode == 1 { output = false }
            if mode == 2 || mode == 3 { output = true }
            if mode == 4 || mode == 5 { output = true }
            if mode == 3 { element = register & ~1 }
            return !before && output
        }
        guard !isStopped else { return false }
        switch mode {
        case 0 where gate, 1:
            decrement()
            if element == 0 && !isDone {
                isDone = true
                output = true
            }
        case 4 where gate, 5:
            decrement()
            if !output { output = true }
            if element == 0 && !isDone {
                isDone = true
                output = false
            }
        case 2 where gate:
            if element == 1 {
                element = register
                output = true
            } else {
                decrement()
                output = element != 1
            }
        case 3 where gate:
            // Odd counts: the high half lasts one CLK more, at zero.
            if element == (isHighHalf && isOdd ? 0 : 2) {
                isHighHalf.toggle()
                output = isHighHalf
                element = register & ~1
                isOdd = register & 1 != 0
            } else {
                element -= 2
            }
        default: break
        }
        return !before && output
    }

    private mutating func decrement() {
        element = element == 0 ? modulus - 1 : element - 1
    }

    /// What a read gives.
    var count: Int {
        let value = element % modulus
        guard isBCD else { return value }
        return value % 10 | (value / 10 % 10) << 4 | (value / 100 % 10) << 8 | (value / 1000) << 12
    }
}
