// A kernel in Embedded Swift: prints over the UART, finds primes, sorts, takes a checksum.
// The command line may give the seed of the numbers that it sorts.

/// The smallest prime numbers, found by Eratosthenes' sieve.
struct PrimeSieve {
    private var isComposite: [Bool]

    init(upTo limit: Int) {
        isComposite = Array(repeating: false, count: limit + 1)
        var candidate = 2
        while candidate * candidate <= limit {
            if !isComposite[candidate] { strikeMultiples(of: candidate) }
            candidate += 1
        }
    }

    @inline(never)
    private mutating func strikeMultiples(of prime: Int) {
        var multiple = prime * prime
        while multiple < isComposite.count {
            isComposite[multiple] = true
            multiple += prime
        }
    }

    var primes: [UInt32] {
        var found: [UInt32] = []
        for number in 2..<isComposite.count where !isComposite[number] {
            found.append(UInt32(number))
        }
        return found
    }
}

/// A linear congruential generator: the same numbers in every run.
struct Generator {
    private var state: UInt32

    init(seed: UInt32) { state = seed }

    mutating func next() -> UInt32 {
        state = state &* 1_664_525 &+ 1_013_904_223
        return state >> 8
    }
}

/// Sorts in place: what comes before the pivot to the left, the rest to the right.
@inline(never)
func quicksort(_ values: inout [UInt32], from low: Int, to high: Int) {
    guard low < high else { return }
    let boundary = partition(&values, from: low, to: high)
    quicksort(&values, from: low, to: boundary - 1)
    quicksort(&values, from: boundary + 1, to: high)
}

@inline(never)
func partition(_ values: inout [UInt32], from low: Int, to high: Int) -> Int {
    let pivot = values[high]
    var boundary = low
    for index in low..<high where values[index] < pivot {
        values.swapAt(index, boundary)
        boundary += 1
    }
    values.swapAt(boundary, high)
    return boundary
}

/// Adler-32 (RFC 1950) over the bytes of the values, least significant byte first.
@inline(never)
func checksum(_ values: [UInt32]) -> UInt32 {
    var low: UInt32 = 1
    var high: UInt32 = 0
    for value in values {
        for shift in stride(from: UInt32(0), to: 32, by: 8) {
            low = (low + (value >> shift) & 0xFF) % 65521
            high = (high + low) % 65521
        }
    }
    return high << 16 | low
}

@inline(never)
func reportPrimes(upTo limit: Int) {
    let primes = PrimeSieve(upTo: limit).primes
    Console.write("primes up to ")
    Console.write(decimal: UInt64(limit))
    Console.write(": ")
    Console.write(decimal: UInt64(primes.count))
    Console.write(", the last ")
    Console.write(decimal: UInt64(primes[primes.count - 1]))
    Console.write("\n")
}

@inline(never)
func reportSort(count: Int, seed: UInt32) -> Bool {
    var generator = Generator(seed: seed)
    var values: [UInt32] = []
    for _ in 0..<count { values.append(generator.next()) }
    quicksort(&values, from: 0, to: values.count - 1)
    var isSorted = true
    for index in 1..<values.count where values[index - 1] > values[index] { isSorted = false }
    Console.write("sorted ")
    Console.write(decimal: UInt64(count))
    Console.write(isSorted ? " numbers, checksum " : " numbers WRONGLY, checksum ")
    Console.write(hexadecimal: checksum(values))
    Console.write("\n")
    return isSorted
}

/// The decimal number that the text starts with.
func leadingNumber(_ text: UnsafePointer<CChar>) -> UInt32? {
    var number: UInt32?
    var index = 0
    while let digit = UInt8(bitPattern: text[index]).decimalDigit {
        number = (number ?? 0) &* 10 &+ UInt32(digit)
        index += 1
    }
    return number
}

extension UInt8 {
    /// What an ASCII digit stands for.
    var decimalDigit: UInt8? {
        self >= UInt8(ascii: "0") && self <= UInt8(ascii: "9") ? self - UInt8(ascii: "0") : nil
    }
}

/// What start.S calls; the result ends the guest.
@_cdecl("kernel_main")
public func kernelMain(_ commandLine: UnsafePointer<CChar>?) -> CInt {
    Console.write("Hello from Embedded Swift in ring 0\n")
    reportPrimes(upTo: 1000)
    let seed = commandLine.flatMap(leadingNumber) ?? 2026
    let isSorted = reportSort(count: 64, seed: seed)
    Console.write("done\n")
    return isSorted ? 0 : 1
}
