// REP INS and REP OUTS: every size, both directions, counts of zero, one and thousands, buffers
// that cross pages, elements that straddle a page boundary.
#include "../common/io.h"

enum {
    PAGE = 0x1000,
    BUFFER_BYTES = 2 * PAGE,
    BIG_COUNT = 1500,   // more than KVM hands over in one exit (1,024)
    CANARY = 0x5C,
};

static uint8_t buffer[BUFFER_BYTES] __attribute__((aligned(PAGE)));
static int failures;

static void check(const char *what, int good) {
    uart_write(what);
    uart_write(good ? ": ok\n" : ": WRONG\n");
    failures += !good;
}

// What is left when the instruction is done: the address register and the count.
struct after {
    uint8_t *address;
    uint64_t count;
};

#define STRING_IO(NAME, PREPARE, INSTRUCTION, POINTER)                                          \
    static struct after NAME(uint16_t port, uint8_t *address, uint64_t count) {                 \
        __asm__ volatile(PREPARE "; rep " INSTRUCTION "; cld"                                   \
            : POINTER(address), "+c"(count) : "d"(port) : "memory", "cc");                      \
        return (struct after){address, count};                                                  \
    }
STRING_IO(out_bytes, "cld", "outsb", "+S")
STRING_IO(out_words, "cld", "outsw", "+S")
STRING_IO(out_longs, "cld", "outsl", "+S")
STRING_IO(out_bytes_down, "std", "outsb", "+S")
STRING_IO(out_longs_down, "std", "outsl", "+S")
STRING_IO(in_bytes, "cld", "insb", "+D")
STRING_IO(in_words, "cld", "insw", "+D")
STRING_IO(in_longs, "cld", "insl", "+D")
STRING_IO(in_bytes_down, "std", "insb", "+D")
STRING_IO(in_words_down, "std", "insw", "+D")

static void fill(uint8_t *at, uint8_t byte, uint64_t count) {
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(byte) : "memory");
}

// Whether exactly the bytes from `first` on, `count` of them, hold ones, and all others do not.
static int ones_exactly(uint64_t first, uint64_t count) {
    static uint8_t expected[BUFFER_BYTES] __attribute__((aligned(PAGE)));
    const uint8_t *left = buffer, *right = expected;
    uint64_t quads = sizeof buffer / 8;
    uint8_t equal;
    fill(expected, CANARY, sizeof expected);
    fill(expected + first, 0xFF, count);
    __asm__ volatile("repe cmpsq; sete %0"
        : "=q"(equal), "+S"(left), "+D"(right), "+c"(quads) : : "memory", "cc");
    return equal;
}

static int ended_at(struct after after, uint64_t offset) {
    return after.count == 0 && after.address == buffer + offset;
}

static void outputs(void) {
    static uint8_t text[] = "string-io: rep outsb\n";
    static uint8_t mirrored[] = "\nsdrawnwod bstuo per :oi-gnirts";
    struct after after = out_bytes(PORT_UART_DATA, text, sizeof text - 1);
    check("outsb", after.count == 0 && after.address == text + sizeof text - 1);
    after = out_bytes_down(PORT_UART_DATA, mirrored + sizeof mirrored - 2, sizeof mirrored - 1);
    check("outsb downwards", after.count == 0 && after.address == mirrored - 1);

    for (unsigned index = 0; index < 256; ++index) buffer[index] = (uint8_t)(index * 7);
    check("outsw", ended_at(out_words(PORT_UNCLAIMED, buffer, 24), 48));
    check("outsd", ended_at(out_longs(PORT_UNCLAIMED, buffer, 12), 48));
    check("outsd downwards", ended_at(out_longs_down(PORT_UNCLAIMED, buffer + 44, 12), -4ull));
    check("outsd astride a page",
        ended_at(out_longs(PORT_UNCLAIMED, buffer + PAGE - 6, 3), PAGE + 6));
    check("outsb, none", ended_at(out_bytes(PORT_UNCLAIMED, buffer + 5, 0), 5));
    check("outsb, one", ended_at(out_bytes(PORT_UNCLAIMED, buffer + 5, 1), 6));
    check("outsb, 1500", ended_at(out_bytes(PORT_UNCLAIMED, buffer + PAGE - 16, BIG_COUNT),
        PAGE - 16 + BIG_COUNT));
}

typedef struct after operation(uint16_t port, uint8_t *address, uint64_t count);

// Reads `count` elements of `size` bytes upwards (or downwards, size < 0) from `offset`.
static void input(const char *what, operation *read, uint64_t offset, uint64_t count, int size) {
    fill(buffer, CANARY, sizeof buffer);
    struct after after = read(PORT_UNCLAIMED, buffer + offset, count);
    uint64_t end = offset + count * (uint64_t)size;
    uint64_t bytes = count * (uint64_t)(size < 0 ? -size : size);
    uint64_t first = size < 0 ? end + (uint64_t)-size : offset;
    check(what, ended_at(after, end) && ones_exactly(first, bytes));
}

static void inputs(void) {
    input("insb", in_bytes, 100, 24, 1);
    input("insw", in_words, 100, 24, 2);
    input("insd", in_longs, 100, 24, 4);
    input("insb downwards", in_bytes_down, 100, 24, -1);
    input("insw downwards", in_words_down, 100, 24, -2);
    input("insw astride a page", in_words, PAGE - 3, 3, 2);
    input("insd astride a page", in_longs, PAGE - 6, 3, 4);
    input("insb, none", in_bytes, 100, 0, 1);
    input("insb, one", in_bytes, 100, 1, 1);
    input("insb, 1500", in_bytes, PAGE - 16, BIG_COUNT, 1);
    input("insd, 1100", in_longs, PAGE - 2002, 1100, 4);

    fill(buffer, CANARY, sizeof buffer);
    struct after after = in_bytes(PORT_UART_LINE_STATUS, buffer, 16);
    int good = ended_at(after, 16);
    for (unsigned index = 0; index < 16; ++index)
        good &= (buffer[index] & LINE_STATUS_TRANSMITTER_EMPTY) != 0;
    check("insb from the UART", good);
}

int kernel_main(const char *command_line) {
    (void)command_line;
    outputs();
    inputs();
    uart_write(failures ? "string-io: FAILED\n" : "string-io: all as expected\n");
    return failures != 0;
}
