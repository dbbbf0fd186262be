// Computes without exits while the interval timer interrupts it about 1000 times a second:
// `preempted [TICKS [MODE]]` (default 200, 0). What it prints depends on where each tick landed: the
// handler mixes the interrupted state into the result. MODE 0: all of it in turn; 1: registers
// change; 2: memory is the only thing that changes; 3: a REP is nearly always under way; 4: vector
// registers are the only thing that changes.
#include "../common/interrupts.h"

enum {
    TICKS_PER_SECOND = 1000,
    COUNTER_HERTZ = 1193182,
    DIVISOR = (COUNTER_HERTZ + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND,

    PORT_COUNTER_0 = 0x40,
    PORT_COUNTER_CONTROL = 0x43,
    RATE_GENERATOR = 0x34,   // counter 0, low byte then high byte, mode 2, binary

    TABLE_WORDS = 64,
    BLOCK_BYTES = 3000,      // a REP of more than 1024 iterations can be cut short

    SSE_ENABLED = 0x600,     // CR4.OSFXSR and OSXMMEXCPT
};

enum mode { MODE_ALL, MODE_REGISTERS, MODE_MEMORY, MODE_REP, MODE_VECTOR };

static volatile uint64_t ticks;
static uint64_t wanted;
static volatile uint64_t state = 0x9E3779B97F4A7C15;
static volatile uint64_t counter;
static uint64_t table[TABLE_WORDS];
static uint8_t blocks[2][BLOCK_BYTES];
static volatile uint64_t mixed;
static volatile uint64_t vector[2];

static uint64_t mix(uint64_t value) {
    value ^= value >> 33;
    value *= 0xFF51AFD7ED558CCD;
    value ^= value >> 33;
    return value;
}

void interrupt(unsigned line) {
    if (line != LINE_TIMER) return;
    ticks = ticks + 1;
    // How far the computation had come, in memory and in what no code of the handler's changes.
    __asm__ volatile("movups %%xmm0, %0" : "=m"(vector));
    mixed = mix(mixed ^ state ^ counter ^ vector[0] ^ blocks[1][counter % BLOCK_BYTES]);
    table[ticks % TABLE_WORDS] = mixed;
}

static void start_timer(void) {
    port_write8(PORT_COUNTER_CONTROL, RATE_GENERATOR);
    port_write8(PORT_COUNTER_0, DIVISOR & 0xFF);
    port_write8(PORT_COUNTER_0, DIVISOR >> 8);
}

// Registers change.
static uint64_t compute(uint64_t value, unsigned rounds) {
    while (rounds--) {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
    }
    return value;
}

// Only memory changes: at each instruction the registers are the same in every round.
static void count_in_memory(uint64_t end) {
    __asm__ volatile(
        "1: incq %0\n"
        "cmpq %1, %0\n"
        "jne 1b\n"
        : "+m"(counter) : "r"(end) : "cc", "memory");
}

static void spin_in_memory(void) {
    // Without a comparison: flags are those of adding one to a number with few bits.
    __asm__ volatile(
        "movl $200, %%ecx\n"
        "1: addq $2, %0\n"
        "nop\n"
        "loop 1b\n"
        : "+m"(counter) : : "rcx", "cc", "memory");
}

static void copy(void *to, const void *from, uint64_t count) {
    __asm__ volatile("cld; rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

// Round by round, at each instruction but the comparison, the counter in memory alone differs.
static void change_memory_alone(void) {
    __asm__ volatile(
        "1: incq %0\n"
        "cmpq %2, %1\n"
        "jb 1b\n"
        : "+m"(counter) : "m"(ticks), "r"(wanted) : "cc", "memory");
}

// Round by round only what is in which vector register differs: they come round together after 60.
static void change_vectors_alone(void) {
    static const uint64_t numbers[12][2] = {
        {1, 2}, {3, 4}, {5, 6}, {7, 8}, {9, 10}, {11, 12},
        {13, 14}, {15, 16}, {17, 18}, {19, 20}, {21, 22}, {23, 24},
    };
    __asm__ volatile(
        "movups (%0), %%xmm0\n movups 16(%0), %%xmm1\n movups 32(%0), %%xmm2\n"
        "movups 48(%0), %%xmm3\n movups 64(%0), %%xmm4\n movups 80(%0), %%xmm5\n"
        "movups 96(%0), %%xmm6\n movups 112(%0), %%xmm7\n movups 128(%0), %%xmm8\n"
        "movups 144(%0), %%xmm9\n movups 160(%0), %%xmm10\n movups 176(%0), %%xmm11\n"
        "1: movaps %%xmm0, %%xmm15\n"       // five go round
        "movaps %%xmm1, %%xmm0\n movaps %%xmm2, %%xmm1\n movaps %%xmm3, %%xmm2\n"
        "movaps %%xmm4, %%xmm3\n movaps %%xmm15, %%xmm4\n"
        "movaps %%xmm5, %%xmm15\n"          // three
        "movaps %%xmm6, %%xmm5\n movaps %%xmm7, %%xmm6\n movaps %%xmm15, %%xmm7\n"
        "movaps %%xmm8, %%xmm15\n"          // and four
        "movaps %%xmm9, %%xmm8\n movaps %%xmm10, %%xmm9\n movaps %%xmm11, %%xmm10\n"
        "movaps %%xmm15, %%xmm11\n"
        "cmpq %2, %1\n"
        "jb 1b\n"
        : : "r"(numbers), "m"(ticks), "r"(wanted) : "cc", "memory");
}

static void change_registers(void) {
    while (ticks < wanted) state = compute(state, 300);
}

static void repeat_strings(void) {
    while (ticks < wanted) {
        state = compute(state, 1);
        blocks[0][state % BLOCK_BYTES] = (uint8_t)state;
        copy(blocks[1], blocks[0], BLOCK_BYTES);
    }
}

static void change_all(void) {
    while (ticks < wanted) {
        state = compute(state, 300);
        count_in_memory(counter + 300);
        spin_in_memory();
        blocks[0][state % BLOCK_BYTES] = (uint8_t)state;
        copy(blocks[1], blocks[0], BLOCK_BYTES);
        table[state % TABLE_WORDS] ^= state;
    }
}

int kernel_main(const char *command_line) {
    wanted = parse_decimal(&command_line, 200);
    uint64_t mode = parse_decimal(&command_line, MODE_ALL);
    for (unsigned index = 0; index < BLOCK_BYTES; ++index) blocks[0][index] = (uint8_t)(index * 7);
    uint64_t control;
    __asm__ volatile("movq %%cr4, %0" : "=r"(control));
    __asm__ volatile("movq %0, %%cr4" : : "r"(control | SSE_ENABLED));
    interrupts_start(1 << LINE_TIMER);
    start_timer();
    interrupts_on();
    switch (mode) {
    case MODE_REGISTERS: change_registers(); break;
    case MODE_MEMORY: change_memory_alone(); break;
    case MODE_REP: repeat_strings(); break;
    case MODE_VECTOR: change_vectors_alone(); break;
    default: change_all(); break;
    }
    interrupts_stop();
    uint64_t sum = mixed;
    for (unsigned index = 0; index < TABLE_WORDS; ++index) sum = mix(sum ^ table[index]);
    uart_write_decimal(ticks);
    uart_write(" ticks, ");
    uart_write_hex(sum);
    uart_write("\n");
    return 0;
}
