// Reads everything that makes two runs of a guest differ: the time-stamp counter in several
// places, CPUID, the date, the rest of CMOS. Prints what it saw, and digests of it.
#include "../common/io.h"

enum {
    PORT_CMOS_INDEX = 0x70,
    PORT_CMOS_DATA = 0x71,
    CMOS_BYTES = 128,
    CMOS_STATUS_A = 0x0A,
    UPDATE_IN_PROGRESS = 0x80,
    ROUNDS = 16,
};

static uint64_t all = 0xCBF29CE484222325;   // of everything: FNV-1a

static void mix(uint64_t *digest, uint64_t value) {
    for (int byte = 0; byte < 8; ++byte) {
        *digest = (*digest ^ (value >> byte * 8 & 0xFF)) * 0x100000001B3;
    }
}

static void report(const char *what, uint64_t digest) {
    mix(&all, digest);
    uart_write(what);
    uart_write_hex(digest);
    uart_write("\n");
}

// A place of its own in every caller.
INLINE uint64_t time_stamp(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static uint64_t seed_from_time(void) { return time_stamp() * 0x9E3779B97F4A7C15; }

static uint64_t measure_port(void) {
    uint64_t start = time_stamp();
    port_read8(PORT_POST);
    return time_stamp() - start;
}

static void look_at_time(void) {
    uint64_t digest = seed_from_time();
    uint64_t last = 0;
    int is_monotonic = 1;
    for (int round = 0; round < ROUNDS; ++round) {
        uint64_t now = time_stamp();
        if (now <= last) is_monotonic = 0;
        last = now;
        mix(&digest, now);
        mix(&digest, measure_port());
    }
    report(is_monotonic ? "time-stamp counter: rises, " : "time-stamp counter: STANDS, ", digest);
}

struct leaf {
    uint32_t eax, ebx, ecx, edx;
};

static struct leaf cpuid(uint32_t function, uint32_t index) {
    struct leaf leaf;
    __asm__ volatile("cpuid"
                     : "=a"(leaf.eax), "=b"(leaf.ebx), "=c"(leaf.ecx), "=d"(leaf.edx)
                     : "a"(function), "c"(index));
    return leaf;
}

static void write_letters(uint32_t word) {
    for (; word; word >>= 8) uart_write_byte((uint8_t)word);
}

static void look_at_processor(void) {
    static const uint32_t firsts[] = {0, 0x80000000};
    uint64_t digest = 0;
    struct leaf maker = cpuid(0, 0);
    uart_write("processor: ");
    write_letters(maker.ebx);
    write_letters(maker.edx);
    write_letters(maker.ecx);
    for (int range = 0; range < 2; ++range) {
        uint32_t last = cpuid(firsts[range], 0).eax;
        if (last - firsts[range] > 64) last = firsts[range];
        for (uint32_t function = firsts[range]; function <= last; ++function) {
            for (uint32_t index = 0; index < 3; ++index) {
                struct leaf leaf = cpuid(function, index);
                mix(&digest, (uint64_t)leaf.eax << 32 | leaf.ebx);
                mix(&digest, (uint64_t)leaf.ecx << 32 | leaf.edx);
            }
        }
    }
    report(", ", digest);
}

static uint8_t cmos(uint8_t index) {
    port_write8(PORT_CMOS_INDEX, index);
    return port_read8(PORT_CMOS_DATA);
}

// The date's registers, all of one second; 0 where there is no clock.
static int read_date(uint8_t date[6]) {
    static const uint8_t registers[6] = {9, 8, 7, 4, 2, 0};   // year first
    for (int attempt = 0; attempt < 1000; ++attempt) {
        if (cmos(CMOS_STATUS_A) & UPDATE_IN_PROGRESS) continue;
        for (int index = 0; index < 6; ++index) date[index] = cmos(registers[index]);
        if (!(cmos(CMOS_STATUS_A) & UPDATE_IN_PROGRESS) && cmos(0) == date[5]) return 1;
    }
    return 0;
}

static void look_at_date(void) {
    static const char separators[] = "-- ::\n";
    uint8_t date[6];
    if (!read_date(date)) {
        uart_write("no clock\n");
        return;
    }
    uart_write("date: ");
    for (int index = 0; index < 6; ++index) {
        // Binary-coded decimal, unless somebody has asked for another form.
        uart_write_byte((uint8_t)('0' + (date[index] >> 4)));
        uart_write_byte((uint8_t)('0' + (date[index] & 15)));
        uart_write_byte((uint8_t)separators[index]);
        mix(&all, date[index]);
    }
}

static void look_at_cmos(void) {
    uint64_t digest = 0;
    for (int index = 0; index < CMOS_BYTES; ++index) mix(&digest, cmos((uint8_t)index));
    report("CMOS: ", digest);
}

int kernel_main(const char *command_line) {
    (void)command_line;
    look_at_time();
    look_at_processor();
    look_at_date();
    look_at_cmos();
    report("time again: ", seed_from_time());
    report("all of it: ", all);
    return 0;
}
