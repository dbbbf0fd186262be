// A kernel whose program computes in ring 3, while the interval timer interrupts it about 1000 times
// a second: `preempted-ring3 [TICKS [MODE]]` (default 200, 0). What it prints depends on where each
// tick landed. By itself the program never enters ring 0; MODE 1: it faults 20 times a round; MODE 2:
// it writes to a port each round, which is an exit; MODE 3: both. 4, 8, 12 or 16 more: it does one
// thing only, that is, registers change, memory alone, strings with REP, or a vector register alone.
// 20: a loop of a few instructions that has no end, so that no place in it comes seldom. 24: another,
// which is in a REP nearly all the time.
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
    // How far the program had come, in memory and in what no code of ring 0 changes.
    __asm__ volatile("movups %%xmm0, %0" : "=m"(shared.now));
    mixed = mix(mixed ^ shared.state ^ shared.counter ^ shared.vector[0] ^ shared.now[0]
        ^ shared.blocks[1][shared.counter % BLOCK_BYTES]);
    shared.table[ticks % TABLE_WORDS] = mixed;
    if (ticks == wanted) finish();
}

// The program asks for nothing by HLT: the kernel counts, and lets it go on.
void exception(struct exception_frame *frame) {
    mixed = mix(mixed ^ frame->rip);
    if (frame->vector == VECTOR_GENERAL_PROTECTION) {
        frame->rip++;
        return;
    }
    uart_write("an exception that nobody expected\n");
    port_write8(PORT_DEBUG_EXIT, 1);
    halt();
}

static struct gate *current_gates(void) {
    struct {
        uint16_t limit;
        struct gate *base;
    } __attribute__((packed)) table;
    __asm__ volatile("sidt %0" : "=m"(table));
    return table.base;
}

int kernel_main(const char *command_line) {
    wanted = parse_decimal(&command_line, 200);
    shared.mode = parse_decimal(&command_line, 0);
    interrupts_start(1 << LINE_TIMER);
    permit_ports(PORT_POST, PORT_POST);
    set_gate(current_gates(), VECTOR_GENERAL_PROTECTION, general_protection_entry);
    set_gate(current_gates(), VECTOR_PAGE_FAULT, page_fault_entry);
    paging_start((uint64_t)user_start, (uint64_t)user_end);
    uint64_t control;
    __asm__ volatile("movq %%cr4, %0" : "=r"(control));
    __asm__ volatile("movq %0, %%cr4" : : "r"(control | SSE_ENABLED));
    port_write8(PORT_COUNTER_CONTROL, RATE_GENERATOR);
    port_write8(PORT_COUNTER_0, DIVISOR & 0xFF);
    port_write8(PORT_COUNTER_0, DIVISOR >> 8);
    enter_ring3(user_main, user_stack_top);
}
