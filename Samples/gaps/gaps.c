// Instructions that a KVM without hardware virtualization cannot emulate in ring 0, and that vmtape
// carries out in the CPU's place. Each is executed, and what it does compared with what a real CPU
// did. Where ring 0 runs on hardware, it wants one with BMI, ADX, SMAP and CLWB.
#include "../common/io.h"
#include "../common/processor.h"
#include "instructions.h"

enum {
    FLAG_ZERO = 1 << 6,
    FLAG_RESUME = 1 << 16,
    FLAG_ALIGNMENT = 1 << 18,
    CR4_OSFXSR = 1 << 9,
    CR4_OSXSAVE = 1 << 18,
    VECTOR_BREAKPOINT = 3,
    VECTOR_INVALID_OPCODE = 6,
};

// traps.S.
void breakpoint_entry(void);
void invalid_opcode_entry(void);
uint64_t do_int3(void);
uint64_t do_ud2(void);
extern volatile uint64_t trap_address, trap_flags, breakpoint_count, invalid_opcode_count;

static struct gate gates[GATE_COUNT];
static uint8_t pages[2 * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static int failures;

static void check(const char *what, int good) {
    uart_write(what);
    uart_write(good ? ": ok\n" : ": WRONG\n");
    failures += !good;
}

// Name, function, operands, flags before; result and flags of a real CPU, and which of the flags
// are defined.
static const struct {
    const char *name;
    struct result (*run)(uint64_t a, uint64_t b, uint64_t flags);
    uint64_t a, b, flags, value, flags_after, defined;
} cases[] = {
    {"popcnt16", popcnt16, 0x79690975fbde15b0, 0x2a337357ae2cc59b, 0x0, 0x6, 0x0, 0x8d5},
    {"popcnt16", popcnt16, 0x2fef107a27529ad0, 0xe4093df8432a8be5, 0x8d5, 0x7, 0x0, 0x8d5},
    {"popcnt32", popcnt32, 0x71dd0913271687b2, 0xf70abb341875063d, 0x0, 0xf, 0x0, 0x8d5},
    {"popcnt32", popcnt32, 0x61b97bcd4b21c371, 0xe845105ed8c77cb7, 0x8d5, 0xe, 0x0, 0x8d5},
    {"popcnt64", popcnt64, 0xe77b20aec4233f8e, 0xc9ddc8f042775a71, 0x0, 0x22, 0x0, 0x8d5},
    {"popcnt64", popcnt64, 0xfe5defe9c5610885, 0x6ef14999f8114bd4, 0x8d5, 0x23, 0x0, 0x8d5},
    {"crc32_8", crc32_8, 0xa3a03fe4de4f1c43, 0x9fded21c82caf2bb, 0x0, 0x796978a6, 0x0, 0x8d5},
    {"crc32_8", crc32_8, 0xb494d6880418a99e, 0x955753b579933f4d, 0x8d5, 0xc0870af6, 0x8d5, 0x8d5},
    {"crc32_16", crc32_16, 0x1239ff2c4a06a73, 0x8be87413a8b3d667, 0x0, 0x8e19e9e4, 0x0, 0x8d5},
    {"crc32_16", crc32_16, 0x2e6f66b049cdc80b, 0xf991db0c819b315b, 0x8d5, 0x4b0ecaf1, 0x8d5, 0x8d5},
    {"crc32_32", crc32_32, 0x94269b57fb8d31f9, 0xbe1edefcfabd75da, 0x0, 0x5e9928f1, 0x0, 0x8d5},
    {"crc32_32", crc32_32, 0xe35ac67471cc39b1, 0x7b59baf2b613ed82, 0x8d5, 0x3572872b, 0x8d5, 0x8d5},
    {"crc32_64", crc32_64, 0x8b4eb7817f86ead9, 0x97876671a300714c, 0x0, 0xb93721d2, 0x0, 0x8d5},
    {"crc32_64", crc32_64, 0xfad4dc52cb2fa2ae, 0x11e69a347dd2966b, 0x8d5, 0x7bc5c8fc, 0x8d5, 0x8d5},
    {"andn32", andn32, 0x686f3326a04fc987, 0x6ed5ff7aa865d7d4, 0x0, 0x8201650, 0x0, 0x8c1},
    {"andn32", andn32, 0x6edd22562c4c697b, 0x5b22f45380f3cf69, 0x8d5, 0x80b38600, 0x80, 0x8c1},
    {"andn64", andn64, 0xaf29109cc782d2b7, 0x76d874a3714b9ad2, 0x0, 0x50d0642330490840, 0x0, 0x8c1},
    {"andn64", andn64, 0x7dc2ae94e4dbf967, 0xc971bea6a6af755, 0x8d5, 0x15116a0a200610, 0x0, 0x8c1},
    {"bextr32", bextr32, 0xea2177d8d51f57fb, 0x373f, 0x0, 0x0, 0x40, 0x841},
    {"bextr32", bextr32, 0xd251a40a022b9b89, 0x110d, 0x8d5, 0x115c, 0x0, 0x841},
    {"bextr64", bextr64, 0x63eb500cce126b79, 0x1200, 0x0, 0x26b79, 0x0, 0x841},
    {"bextr64", bextr64, 0x9480583abdfb5837, 0xd0d, 0x8d5, 0xfda, 0x0, 0x841},
    {"blsi32", blsi32, 0xca9d54bd4e78980e, 0xb1db9b0fecbfaabe, 0x0, 0x2, 0x1, 0x8c1},
    {"blsi32", blsi32, 0xe79541e25d0dba6b, 0xff98837fda2a5bdf, 0x8d5, 0x1, 0x1, 0x8c1},
    {"blsi64", blsi64, 0xc3bd5e2cd52318a8, 0x2ab7bb54e687499, 0x0, 0x8, 0x1, 0x8c1},
    {"blsi64", blsi64, 0xbebf0929f41aa230, 0x58aee9fdc3f41b74, 0x8d5, 0x10, 0x1, 0x8c1},
    {"blsmsk32", blsmsk32, 0x62daff171a9fae42, 0xe5baa16ee5b5419e, 0x0, 0x3, 0x0, 0x8c1},
    {"blsmsk32", blsmsk32, 0x16b3a918e4278c9d, 0x4ab9cfc9a41744c4, 0x8d5, 0x1, 0x0, 0x8c1},
    {"blsmsk64", blsmsk64, 0x86ddce906c8cdb4d, 0x867e3492977cb1bb, 0x0, 0x1, 0x0, 0x8c1},
    {"blsmsk64", blsmsk64, 0x3d0e482377794618, 0x90e1bc8ba22d3294, 0x8d5, 0xf, 0x0, 0x8c1},
    {"blsr32", blsr32, 0xf48119b103954df1, 0x79780d4e5b2b3b2a, 0x0, 0x3954df0, 0x0, 0x8c1},
    {"blsr32", blsr32, 0xb36eb1caa58ee7dc, 0xf0fe55be95a18d13, 0x8d5, 0xa58ee7d8, 0x80, 0x8c1},
    {"blsr64", blsr64, 0x1234769364d9eac9, 0x31a7445bdf8bcb5c, 0x0, 0x1234769364d9eac8, 0x0, 0x8c1},
    {"blsr64", blsr64, 0x1735808ee4398bca, 0x8f09996552504a5d, 0x8d5,
        0x1735808ee4398bc8, 0x0, 0x8c1},
    {"bzhi32", bzhi32, 0x4fcf7212bebfdd89, 0x42, 0x0, 0xbebfdd89, 0x81, 0x8c1},
    {"bzhi32", bzhi32, 0xb9e2a99fdb7b2948, 0x28, 0x8d5, 0xdb7b2948, 0x81, 0x8c1},
    {"bzhi64", bzhi64, 0x7f2e6910bdea3ffd, 0x3, 0x0, 0x5, 0x0, 0x8c1},
    {"bzhi64", bzhi64, 0xfecee737556609f5, 0x3f, 0x8d5, 0x7ecee737556609f5, 0x0, 0x8c1},
    {"pdep32", pdep32, 0x4cf560811e3465c5, 0xf2a6b292a535dc4e, 0x0, 0x504d00a, 0x0, 0x8d5},
    {"pdep32", pdep32, 0x3b4de2fabe6d6476, 0xa6a669d1baba633e, 0x8d5, 0x9288032c, 0x8d5, 0x8d5},
    {"pdep64", pdep64, 0xa73c905bcbc01878, 0x38be984c83ce8648, 0x0, 0x28b0000082068400, 0x0, 0x8d5},
    {"pdep64", pdep64, 0x262a15662b298944, 0xdf09e5c90a990b56, 0x8d5,
        0x4b00a0c002080810, 0x8d5, 0x8d5},
    {"pext32", pext32, 0xa8519a5b46242cc0, 0x14d93f0c55095499, 0x0, 0x1418, 0x0, 0x8d5},
    {"pext32", pext32, 0xbad28e0ca5854070, 0x93d7d7a9d87056f0, 0x8d5, 0x4087, 0x8d5, 0x8d5},
    {"pext64", pext64, 0x3b0d936889b10a5d, 0xec6680cabb95f09, 0x0, 0x290abd2b, 0x0, 0x8d5},
    {"pext64", pext64, 0x27429c30e8b6cff7, 0x6465f271027abfa8, 0x8d5, 0x7126367e, 0x8d5, 0x8d5},
    {"rorx32", rorx32, 0xd0abd7d3688aa0d7, 0x986a686578456056, 0x0, 0xaed11541, 0x0, 0x8d5},
    {"rorx32", rorx32, 0xc10a152d71cb3f16, 0x4a6c986967d5ace8, 0x8d5, 0x2ce3967e, 0x8d5, 0x8d5},
    {"rorx64", rorx64, 0x37269c228e8e3db1, 0xf5bad73c74be6d8a, 0x0, 0x1147471ed89b934e, 0x0, 0x8d5},
    {"rorx64", rorx64, 0x68323fe289df33d1, 0xcb9848f06e9659f6, 0x8d5,
        0xf144ef99e8b4191f, 0x8d5, 0x8d5},
    {"sarx32", sarx32, 0x5052886f7169c8c5, 0x40, 0x0, 0x7169c8c5, 0x0, 0x8d5},
    {"sarx32", sarx32, 0x7c6bcb08155fac38, 0x3a, 0x8d5, 0x5, 0x8d5, 0x8d5},
    {"sarx64", sarx64, 0x8c91e2fe14041a34, 0x4e, 0x0, 0xfffe32478bf85010, 0x0, 0x8d5},
    {"sarx64", sarx64, 0x34f2a050c605b6b0, 0x4e, 0x8d5, 0xd3ca81431816, 0x8d5, 0x8d5},
    {"shlx32", shlx32, 0x31523358d080e093, 0x49, 0x0, 0x1c12600, 0x0, 0x8d5},
    {"shlx32", shlx32, 0x4453efe0e843bda5, 0x19, 0x8d5, 0x4a000000, 0x8d5, 0x8d5},
    {"shlx64", shlx64, 0x1b7769de94be57c2, 0x4a, 0x0, 0xdda77a52f95f0800, 0x0, 0x8d5},
    {"shlx64", shlx64, 0x1ab7a90d79b5d419, 0x12, 0x8d5, 0xa435e6d750640000, 0x8d5, 0x8d5},
    {"shrx32", shrx32, 0x142aad1779780c3, 0x3c, 0x0, 0x7, 0x0, 0x8d5},
    {"shrx32", shrx32, 0xed5fe9e149ddd590, 0x3f, 0x8d5, 0x0, 0x8d5, 0x8d5},
    {"shrx64", shrx64, 0x6d8564f31f78431a, 0x46, 0x0, 0x1b61593cc7de10c, 0x0, 0x8d5},
    {"shrx64", shrx64, 0x40f7cd92ebbc3e26, 0x35, 0x8d5, 0x207, 0x8d5, 0x8d5},
    {"adcx32", adcx32, 0x6a01074de3fa4927, 0x9ef4f552e7611475, 0x0, 0xcb5b5d9c, 0x1, 0x8d5},
    {"adcx32", adcx32, 0x298564256e5e6b1d, 0x10f1368a1f6db08b, 0x8d5, 0x8dcc1ba9, 0x8d4, 0x8d5},
    {"adcx64", adcx64, 0x5d56f9d1347a292a, 0x8ea99d9b624dd7f8, 0x0, 0xec00976c96c80122, 0x0, 0x8d5},
    {"adcx64", adcx64, 0x34023e3619adb257, 0x9ad02588915e9cf3, 0x8d5,
        0xced263beab0c4f4b, 0x8d4, 0x8d5},
    {"adox32", adox32, 0x74c5fd46fe517d0a, 0x3b68686e72b3dd70, 0x0, 0x71055a7a, 0x800, 0x8d5},
    {"adox32", adox32, 0xece19f6bb49be6ca, 0x3ee4838f7edc2387, 0x8d5, 0x33780a52, 0x8d5, 0x8d5},
    {"adox64", adox64, 0x22d0e03f67599a00, 0x7b315baeaed9a934, 0x0, 0x9e023bee16334334, 0x0, 0x8d5},
    {"adox64", adox64, 0x5e36e6f8de04d766, 0xde684601baf1c748, 0x8d5,
        0x3c9f2cfa98f69eaf, 0x8d5, 0x8d5},
};

static void computations(void) {
    for (unsigned index = 0; index < sizeof cases / sizeof *cases; ++index) {
        struct result result =
            cases[index].run(cases[index].a, cases[index].b, cases[index].flags | 2);
        check(cases[index].name, result.value == cases[index].value
            && (result.flags & cases[index].defined) == cases[index].flags_after);
    }
}

static void traps(void) {
    uint64_t address = do_int3();
    check("int3", breakpoint_count == 1 && trap_address == address
        && (trap_flags & FLAG_RESUME) == 0);
    address = do_ud2();
    check("ud2", invalid_opcode_count == 1 && trap_address == address
        && (trap_flags & FLAG_RESUME) != 0);
}

static uint64_t flags_now(void) {
    uint64_t flags;
    __asm__ volatile("pushfq; popq %0" : "=r"(flags));
    return flags;
}

static void flags_and_hints(void) {
    __asm__ volatile("stac");
    check("stac", (flags_now() & FLAG_ALIGNMENT) != 0);
    __asm__ volatile("clac");
    check("clac", (flags_now() & FLAG_ALIGNMENT) == 0);
    __asm__ volatile("fwait");
    check("fwait", 1);
    __asm__ volatile("clwb %0; clflushopt %0" : : "m"(pages[5]));
    check("clwb, clflushopt", pages[5] == 0);
}

// Operands in memory, and one that lies astride two pages.
static void memory_operands(void) {
    volatile uint64_t *astride = (volatile uint64_t *)(pages + PAGE_BYTES - 3);
    *astride = 0x8877665544332211;
    uint64_t count, bits;
    __asm__ volatile("popcntq %1, %0" : "=r"(count) : "m"(*astride) : "cc");
    check("popcnt of memory", count == 26);
    __asm__ volatile("andnq %1, %2, %0" : "=r"(bits) : "m"(*astride), "r"(0xFF00FF00ull) : "cc");
    check("andn of memory", bits == 0x8877665500330011);
}

static void mulx(void) {
    uint64_t high, low;
    __asm__ volatile("mulxq %3, %1, %0"
        : "=r"(high), "=r"(low) : "d"(0xFEDCBA9876543210), "r"(0x123456789ABCDEF1));
    check("mulx", high == 0x121fa00ad77d7423 && low == 0x224a4396cc6d0110);
}

static void compare_and_exchange(void) {
    volatile uint64_t *pair = (volatile uint64_t *)(pages + 0x100);
    uint64_t low = 1, high = 2;
    uint8_t equal;
    pair[0] = 1;
    pair[1] = 2;
    __asm__ volatile("lock cmpxchg16b %0; sete %1"
        : "+m"(*(volatile unsigned __int128 *)pair), "=q"(equal), "+a"(low), "+d"(high)
        : "b"(3ull), "c"(4ull) : "cc");
    check("cmpxchg16b, equal",
        equal && pair[0] == 3 && pair[1] == 4 && low == 1 && high == 2);
    __asm__ volatile("lock cmpxchg16b %0; sete %1"
        : "+m"(*(volatile unsigned __int128 *)pair), "=q"(equal), "+a"(low), "+d"(high)
        : "b"(5ull), "c"(6ull) : "cc");
    check("cmpxchg16b, different",
        !equal && pair[0] == 3 && pair[1] == 4 && low == 3 && high == 4);
}

static void control_registers(void) {
    uint64_t cr4;
    __asm__ volatile("movq %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("movq %0, %%cr4" : : "r"(cr4 | CR4_OSFXSR | CR4_OSXSAVE));
    volatile uint32_t value = 0x1FA5;
    // Astride two pages.
    volatile uint32_t *astride = (volatile uint32_t *)(pages + PAGE_BYTES - 1);
    __asm__ volatile("stmxcsr %0" : "=m"(*astride));
    check("stmxcsr", *astride == 0x1F80);
    __asm__ volatile("ldmxcsr %0" : : "m"(value));
    __asm__ volatile("stmxcsr %0" : "=m"(*astride));
    check("ldmxcsr", *astride == 0x1FA5);
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    check("xgetbv", (low & 1) == 1 && high == 0);
}

int kernel_main(const char *command_line) {
    (void)command_line;
    load_segments();
    set_gate(gates, VECTOR_BREAKPOINT, breakpoint_entry);
    set_gate(gates, VECTOR_INVALID_OPCODE, invalid_opcode_entry);
    load_gates(gates);
    traps();
    flags_and_hints();
    computations();
    memory_operands();
    mulx();
    compare_and_exchange();
    control_registers();
    uart_write(failures ? "gaps: FAILED\n" : "gaps: all as expected\n");
    return failures != 0;
}
