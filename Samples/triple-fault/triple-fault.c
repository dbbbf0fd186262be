// A kernel with a bug whose cause is older than its crash. An event log that wraps at the wrong
// length runs over the interrupt gates that were allocated behind it. Nothing shows until the next
// page fault, which finds no gate, nor does the double fault that follows: a triple fault.
// Going backwards from there to the store that changed gates[14] finds record_event.
#include "../common/io.h"
#include "../common/processor.h"

enum {
    EVENT_CAPACITY = 16,
    ROUNDS = 64,
    ROUNDS_PER_PAGE = 8,
    EVENT_ROUND = 1,
};

struct event {
    uint32_t round;
    uint32_t kind;
    uint64_t value;
};

static uint8_t arena[4096] __attribute__((aligned(16)));
static size_t arena_used;

static struct event *events;
static unsigned next_event;
static struct gate *gates;

static void *boot_allocate(size_t size) {
    void *start = arena + arena_used;
    arena_used += (size + 15) & ~(size_t)15;
    return start;
}

static void record_event(uint32_t round, uint32_t kind, uint64_t value) {
    events[next_event] = (struct event){round, kind, value};
    next_event = (next_event + 1) % GATE_COUNT;   // the bug: should be EVENT_CAPACITY
}

void exception(struct exception_frame *frame) {
    uint64_t address;
    __asm__ volatile("movq %%cr2, %0" : "=r"(address));
    uart_write("page fault at ");
    uart_write_hex(address);
    uart_write(paging_map_window(address) ? ": mapped\n" : ": NOT mapped\n");
    (void)frame;
}

static uint64_t work(uint32_t round) {
    volatile uint64_t *page = (volatile uint64_t *)(uintptr_t)(
        WINDOW + (round / ROUNDS_PER_PAGE) * PAGE_BYTES);
    page[round % ROUNDS_PER_PAGE] = (uint64_t)round * round;
    return page[round % ROUNDS_PER_PAGE];
}

int kernel_main(const char *command_line) {
    (void)command_line;
    load_segments();
    events = boot_allocate(EVENT_CAPACITY * sizeof *events);
    gates = boot_allocate(GATE_COUNT * sizeof *gates);
    set_gate(gates, VECTOR_PAGE_FAULT, page_fault_entry);
    load_gates(gates);
    paging_start(0, 0);
    for (uint32_t round = 0; round < ROUNDS; ++round) {
        uint64_t value = work(round);
        record_event(round, EVENT_ROUND, value);
        uart_write("round ");
        uart_write_decimal(round);
        uart_write("\n");
    }
    uart_write("all rounds done\n");
    return 0;
}
