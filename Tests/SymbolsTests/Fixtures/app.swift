// Embedded Swift: methods, generics, closures, inlined accessors.
struct Port {
    var base: UInt16
    @inline(__always) var status: UInt16 { base &+ 5 }
    @inline(never) func write(_ byte: UInt8) -> UInt16 { UInt16(byte) &* status &+ twice(base) }
}

@inline(__always) func twice(_ x: UInt16) -> UInt16 { x &+ x }

@inline(never) func largest<T: Comparable>(_ a: T, _ b: T) -> T { a > b ? a : b }

final class Counter {
    var total: UInt64 = 0
    @inline(never) func add(_ n: UInt64) { total = largest(total &+ n, total) }
}

@inline(never) func apply(_ n: UInt64, _ body: (UInt64) -> UInt64) -> UInt64 { body(n) &+ 1 }

/// Entered by nobody: only its code is read.
@_cdecl("swift_main") public func swiftMain(_ n: UInt64) -> UInt64 {
    let counter = Counter()
    counter.add(n)
    let port = Port(base: 0x3F8)
    let offset = UInt64(port.write(UInt8(truncatingIfNeeded: n)))
    return apply(counter.total) { $0 &* offset &+ UInt64(twice(UInt16(truncatingIfNeeded: n))) }
}
