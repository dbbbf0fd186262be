// A kernel whose program computes in ring 3 and never comes back by itself, while the interval
// timer interrupts it about 1000 times a second: `preempted-ring3 [TICKS]` (default 200). What it
// prints depends on where each tick landed.
#include "../common/interrupts.h"
#include "../common/processor.h"
#include "shared.h"

enum {
    TICKS_PER_SECOND = 1000,
    COUNTER_HERTZ = 1193182,
    DIVISOR = (COUNTER_HERTZ + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND,

    PORT_COUNTER_0 = 0x40,
    PORT_COUNTER_CONTROL = 0x43,
    RATE_GENERATOR = 0x34,   // counter 0, low byte then high byte, mode 2, binary

    SSE_ENABLED = 0x600,     // CR4.OSFXSR and OSXMMEXCPT
};

extern uint8_t user_start[], user_end[];
extern uint8_t user_stack_top[];
_Noreturn void halt(void);
_Noreturn void enter_ring3(void (*entry)(void), void *stack);

static uint64_t ticks, wanted, mixed;

static uint64_t mix(uint64_t value) {
    value ^= value >> 33;
    value *= 0xFF51AFD7ED558CCD;
    value ^= value >> 33;
    return value;
}

_Noreturn static void finish(void) {
    interrupts_stop();
    for (unsigned index = 0; index < TABLE_WORDS; ++index) mixed = mix(mixed ^ shared.table[index]);
    uart_write_decimal(ticks);
    uart_write(" ticks, ");
    uart_write_hex(mixed);
    uart_write("\n");
    halt();
}

void interrupt(unsigned line) {
    if (line != LINE_TIMER) return;
    ticks = ticks + 1;
    // How far the program had come, in memory.
    mixed = mix(mixed ^ shared.state ^ shared.counter ^ shared.vector[0]
        ^ shared.blocks[1][shared.counter % BLOCK_BYTES]);
    shared.table[ticks % TABLE_WORDS] = mixed;
    if (ticks == wanted) finish();
}

int kernel_main(const char *command_line) {
    wanted = parse_decimal(&command_line, 200);
    interrupts_start(1 << LINE_TIMER);
    paging_start((uint64_t)user_start, (uint64_t)user_end);
    uint64_t control;
    __asm__ volatile("movq %%cr4, %0" : "=r"(control));
    __asm__ volatile("movq %0, %%cr4" : : "r"(control | SSE_ENABLED));
    port_write8(PORT_COUNTER_CONTROL, RATE_GENERATOR);
    port_write8(PORT_COUNTER_0, DIVISOR & 0xFF);
    port_write8(PORT_COUNTER_0, DIVISOR >> 8);
    enter_ring3(user_main, user_stack_top);
}
