// A kernel that runs a program in ring 3, maps pages for it when it faults, and ends it when it
// tries something privileged. (No SYSCALL or INT from ring 3: not every host honours them.)
#include "ring3.h"
#include "../common/io.h"
#include "../common/processor.h"

extern uint8_t user_start[], user_end[];
extern uint8_t user_stack_top[];
_Noreturn void halt(void);
_Noreturn void enter_ring3(void (*entry)(void), void *stack);

_Static_assert(USER_WINDOW == WINDOW, "the program and the kernel agree on the window");

static struct gate gates[GATE_COUNT];

static void describe(const char *what, const struct exception_frame *frame, uint64_t detail) {
    uart_write("ring 0: ");
    uart_write(what);
    uart_write(", error ");
    uart_write_hex(frame->error);
    uart_write(", detail ");
    uart_write_hex(detail);
    uart_write(", at ");
    uart_write_hex(frame->rip);
    uart_write((frame->cs & 3) == 3 ? ", from ring 3\n" : ", from ring 0\n");
}

static void handle_page_fault(struct exception_frame *frame) {
    uint64_t address;
    __asm__ volatile("movq %%cr2, %0" : "=r"(address));
    describe("page fault", frame, address);
    if (paging_map_window(address)) return;
    uart_write("ring 0: no page for that address\n");
    port_write8(PORT_DEBUG_EXIT, 1);
    halt();
}

void exception(struct exception_frame *frame) {
    if (frame->vector == VECTOR_PAGE_FAULT) {
        handle_page_fault(frame);
        return;
    }
    describe("general protection", frame, frame->rdi);
    uart_write("ring 0: the program has ended\n");
    halt();
}

int kernel_main(const char *command_line) {
    (void)command_line;
    load_segments();
    permit_ports(PORT_UART_DATA, PORT_UART_DATA + 7);
    set_gate(gates, VECTOR_GENERAL_PROTECTION, general_protection_entry);
    set_gate(gates, VECTOR_PAGE_FAULT, page_fault_entry);
    load_gates(gates);
    paging_start((uint64_t)user_start, (uint64_t)user_end);
    uart_write("ring 0: entering ring 3\n");
    enter_ring3(user_main, user_stack_top);
}
