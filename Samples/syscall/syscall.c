// A kernel that serves a program in ring 3 by SYSCALL and SYSRET: `syscall [CALLS]` (default 300).
#include "../common/io.h"
#include "../common/processor.h"
#include "calls.h"

enum {
    MSR_EFER = 0xC0000080,
    MSR_STAR = 0xC0000081,
    MSR_LSTAR = 0xC0000082,
    MSR_FMASK = 0xC0000084,
    EFER_SYSCALL = 1,
    FLAGS_CLEARED = 0x700,   // TF, IF, DF
};

extern uint8_t user_start[], user_end[];
extern uint8_t user_stack_top[];
_Noreturn void halt(void);
_Noreturn void enter_ring3(void (*entry)(void), void *stack);
void syscall_entry(void);

static struct gate gates[GATE_COUNT];
static uint64_t wanted, made, sum;

static void write_msr(uint32_t index, uint64_t value) {
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)));
}

static uint64_t read_msr(uint32_t index) {
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

uint64_t system_call(uint64_t what, uint64_t argument) {
    made = made + 1;
    switch (what) {
    case CALL_ADD:
        sum = (sum ^ argument) * 0x9E3779B97F4A7C15;
        return sum;
    case CALL_LIMIT: return wanted;
    case CALL_END:
        uart_write_decimal(made);
        uart_write(" calls, ");
        uart_write_hex(sum);
        uart_write(argument == sum ? "\n" : ", and ring 3 has another sum\n");
        if (argument != sum) port_write8(PORT_DEBUG_EXIT, 1);
        halt();
    }
    return 0;
}

void exception(struct exception_frame *frame) {
    uint64_t address;
    __asm__ volatile("movq %%cr2, %0" : "=r"(address));
    if (frame->vector == VECTOR_PAGE_FAULT && paging_map_window(address)) return;
    uart_write("ring 0: exception at ");
    uart_write_hex(frame->rip);
    uart_write(", error ");
    uart_write_hex(frame->error);
    uart_write("\n");
    port_write8(PORT_DEBUG_EXIT, 1);
    halt();
}

int kernel_main(const char *command_line) {
    wanted = parse_decimal(&command_line, 300);
    load_segments();
    set_gate(gates, VECTOR_GENERAL_PROTECTION, general_protection_entry);
    set_gate(gates, VECTOR_PAGE_FAULT, page_fault_entry);
    load_gates(gates);
    paging_start((uint64_t)user_start, (uint64_t)user_end);
    // SYSCALL takes CS and SS from bits 32 on, SYSRET from bits 48 on.
    write_msr(MSR_STAR, (uint64_t)KERNEL_DATA << 48 | (uint64_t)KERNEL_CODE << 32);
    write_msr(MSR_LSTAR, (uint64_t)syscall_entry);
    write_msr(MSR_FMASK, FLAGS_CLEARED);
    write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_SYSCALL);
    uart_write("syscall: entering ring 3\n");
    enter_ring3(user_main, user_stack_top);
}
