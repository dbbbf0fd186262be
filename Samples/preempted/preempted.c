// Computes without exits while the interval timer interrupts it about 1000 times a second:
// `preempted [TICKS]` (default 200). What it prints depends on where each tick landed: the handler
// mixes the interrupted state into the result.
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
};

static volatile uint64_t ticks;
static volatile uint64_t state = 0x9E3779B97F4A7C15;
static volatile uint64_t counter;
static uint64_t table[TABLE_WORDS];
static uint8_t blocks[2][BLOCK_BYTES];
static volatile uint64_t mixed;

static uint64_t mix(uint64_t value) {
    value ^= value >> 33;
    value *= 0xFF51AFD7ED558CCD;
    value ^= value >> 33;
    return value;
}

void interrupt(unsigned line) {
    if (line != LINE_TIMER) return;
    ticks = ticks + 1;
    // How far the computation had come, in memory.
    mixed = mix(mixed ^ state ^ counter ^ blocks[1][counter % BLOCK_BYTES]);
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

int kernel_main(const char *command_line) {
    uint64_t wanted = parse_decimal(&command_line, 200);
    for (unsigned index = 0; index < BLOCK_BYTES; ++index) blocks[0][index] = (uint8_t)(index * 7);
    interrupts_start(1 << LINE_TIMER);
    start_timer();
    interrupts_on();
    while (ticks < wanted) {
        state = compute(state, 300);
        count_in_memory(counter + 300);
        spin_in_memory();
        blocks[0][state % BLOCK_BYTES] = (uint8_t)state;
        copy(blocks[1], blocks[0], BLOCK_BYTES);
        table[state % TABLE_WORDS] ^= state;
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
