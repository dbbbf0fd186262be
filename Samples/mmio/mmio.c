// Device memory that nothing claims: reads must come back as ones, writes vanish. Every size,
// page-crossing accesses, read-modify-write and string instructions. A higher-half kernel.
#include "../common/io.h"

enum {
    DEVICE = 0xD0000000,
    PAGE = 0x1000,
};

static int failures;

static void check(const char *what, uint64_t address, uint64_t got, uint64_t expected) {
    uart_write(what);
    uart_write(" at ");
    uart_write_hex(address);
    if (got == expected) {
        uart_write(": ok\n");
        return;
    }
    ++failures;
    uart_write(": WRONG, got ");
    uart_write_hex(got);
    uart_write("\n");
}

// One plain MOV each, so that an access is one instruction of exactly this size.
#define ACCESS(BITS, SUFFIX, REGISTER)                                                          \
    static uint64_t read##BITS(uint64_t address) {                                              \
        uint##BITS##_t value;                                                                   \
        __asm__ volatile("mov" SUFFIX " (%1), %" REGISTER "0"                                   \
            : "=r"(value) : "r"(address) : "memory");                                           \
        return value;                                                                           \
    }                                                                                           \
    static void write##BITS(uint64_t address, uint64_t value) {                                 \
        __asm__ volatile("mov" SUFFIX " %" REGISTER "0, (%1)"                                   \
            : : "r"((uint##BITS##_t)value), "r"(address) : "memory");                           \
    }
ACCESS(8, "b", "b")
ACCESS(16, "w", "w")
ACCESS(32, "l", "k")
ACCESS(64, "q", "q")

static void every_size(uint64_t address) {
    check("read 1", address, read8(address), UINT8_MAX);
    check("read 2", address, read16(address), UINT16_MAX);
    check("read 4", address, read32(address), UINT32_MAX);
    check("read 8", address, read64(address), UINT64_MAX);
    write8(address, 0x11);
    write16(address, 0x2222);
    write32(address, 0x33333333);
    write64(address, 0x4444555566667777);
    check("read back 8", address, read64(address), UINT64_MAX);
}

// Two reads and a write to device memory within one instruction or its neighbours.
static void read_modify_write(uint64_t address) {
    uint32_t taken = 0x12345678;
    __asm__ volatile("xchgl %0, (%1)" : "+r"(taken) : "r"(address) : "memory");
    check("xchg 4", address, taken, UINT32_MAX);

    uint8_t carry;
    __asm__ volatile("addq $1, (%1); setc %0" : "=r"(carry) : "r"(address) : "memory", "cc");
    check("add 8, carry", address, carry, 1);

    uint32_t expected = UINT32_MAX;
    uint8_t equal;
    __asm__ volatile("lock cmpxchgl %3, (%2); setz %1"
        : "+a"(expected), "=q"(equal) : "r"(address), "r"(7u) : "memory", "cc");
    check("cmpxchg 4, equal", address, equal, 1);

    uint64_t extended;
    __asm__ volatile("movsbq (%1), %0" : "=r"(extended) : "r"(address) : "memory");
    check("movsx 1 to 8", address, extended, UINT64_MAX);
}

static uint8_t buffer[256];

static uint64_t sum_of_buffer(void) {
    uint64_t sum = 0;
    for (unsigned index = 0; index < sizeof buffer; ++index) sum += buffer[index];
    return sum;
}

static void copy(void *to, const void *from, uint64_t count) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static void copy_quads(void *to, const void *from, uint64_t count) {
    __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static void copy_quads_down(void *to, const void *from, uint64_t count) {
    __asm__ volatile("std; rep movsq; cld" : "+D"(to), "+S"(from), "+c"(count) : : "memory", "cc");
}

static void fill_words(void *to, uint16_t value, uint64_t count) {
    __asm__ volatile("rep stosw" : "+D"(to), "+c"(count) : "a"(value) : "memory");
}

static void string_instructions(uint64_t address) {
    uint8_t *device = (uint8_t *)address;
    for (unsigned index = 0; index < sizeof buffer; ++index) buffer[index] = (uint8_t)index;

    copy(device, buffer, 64);
    check("rep movsb, 64 to the device", address, sum_of_buffer(), 255 * 128);
    fill_words(device, 0xBEEF, 32);
    copy_quads(buffer, device, 8);
    check("rep movsq, 64 from the device", address, sum_of_buffer(),
        64 * 255 + 255 * 128 - 63 * 32);
    copy_quads_down(buffer + 120, device + 120, 8);
    check("rep movsq downwards", address, sum_of_buffer(), 128 * 255 + 255 * 128 - 127 * 64);
    copy_quads(device + PAGE - 12, device + 3, 4);   // device to device, across pages, unaligned

    uint64_t left = 16;
    uint8_t *at = device;
    __asm__ volatile("repe scasb" : "+D"(at), "+c"(left) : "a"(0xFF) : "memory", "cc");
    check("repe scasb, 16", address, left, 0);
}

int kernel_main(const char *command_line) {
    (void)command_line;
    every_size(DEVICE);
    every_size(DEVICE + 3);          // unaligned
    every_size(DEVICE + PAGE - 1);   // across two pages, split at every place there is
    every_size(DEVICE + PAGE - 2);
    every_size(DEVICE + PAGE - 5);
    read_modify_write(DEVICE + 0x100);
    string_instructions(DEVICE + 0x200);
    uart_write(failures ? "mmio: FAILED\n" : "mmio: all as expected\n");
    return failures != 0;
}
