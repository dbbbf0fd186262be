#include "processor.h"

enum { PORT_MAP_PORTS = 0x400 };

struct task_state {
    uint32_t reserved;
    uint32_t stacks[24];   // RSP0 is the first two words; the rest is not used
    uint16_t more_reserved;
    uint16_t port_map_offset;
    uint8_t port_map[PORT_MAP_PORTS / 8 + 1];   // a set bit refuses; the last byte must be ones
} __attribute__((packed));

struct table_register {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

_Static_assert(offsetof(struct task_state, port_map) == 104, "a 64-bit TSS is 104 bytes");

static uint64_t segments[7] = {
    0,
    0x00AF9B000000FFFF,   // ring 0 code, 64-bit
    0x00CF93000000FFFF,   // ring 0 data
    0x00CFF3000000FFFF,   // ring 3 data
    0x00AFFB000000FFFF,   // ring 3 code, 64-bit
};
static struct task_state task_state;
static uint8_t exception_stack[8192] __attribute__((aligned(16)));

void load_segments(void) {
    uint64_t base = (uint64_t)&task_state;
    uint64_t stack = (uint64_t)(exception_stack + sizeof exception_stack);
    uint64_t limit = sizeof task_state - 1;
    task_state.stacks[0] = (uint32_t)stack;
    task_state.stacks[1] = (uint32_t)(stack >> 32);
    task_state.port_map_offset = offsetof(struct task_state, port_map);
    for (unsigned index = 0; index < sizeof task_state.port_map; ++index)
        task_state.port_map[index] = 0xFF;
    segments[5] = limit | (base & 0xFFFFFF) << 16 | 0x89ull << 40 | (base >> 24 & 0xFF) << 56;
    segments[6] = base >> 32;
    struct table_register table = {sizeof segments - 1, (uint64_t)segments};
    __asm__ volatile(
        "lgdt %0\n"
        "pushq %1\n"
        "leaq 1f(%%rip), %%rax\n"
        "pushq %%rax\n"
        "lretq\n"
        "1: movl %2, %%eax\n"
        "movl %%eax, %%ds\n"
        "movl %%eax, %%es\n"
        "movl %%eax, %%ss\n"
        "ltr %w3\n"
        : : "m"(table), "i"(KERNEL_CODE), "i"(KERNEL_DATA), "r"(TASK_STATE) : "rax", "memory");
}

void permit_ports(uint16_t first, uint16_t last) {
    for (unsigned port = first; port <= last && port < PORT_MAP_PORTS; ++port)
        task_state.port_map[port / 8] &= (uint8_t)~(1u << port % 8);
}

void set_gate(struct gate *table, int vector, void (*handler)(void)) {
    enum { PRESENT_INTERRUPT_GATE = 0x8E };
    uint64_t address = (uint64_t)handler;
    table[vector] = (struct gate){
        .offset_low = (uint16_t)address,
        .selector = KERNEL_CODE,
        .type = PRESENT_INTERRUPT_GATE,
        .offset_middle = (uint16_t)(address >> 16),
        .offset_high = (uint32_t)(address >> 32),
    };
}

void load_gates(const struct gate *table) {
    struct table_register gates = {GATE_COUNT * sizeof *table - 1, (uint64_t)table};
    __asm__ volatile("lidt %0" : : "m"(gates));
}

typedef uint64_t page_table[512] __attribute__((aligned(PAGE_BYTES)));

static page_table root, upper, low_middle, low_pages, window_middle, window_pages;
static uint8_t window_frames[WINDOW_PAGES][PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static unsigned frames_used;

void paging_start(uint64_t user_start, uint64_t user_end) {
    enum { LARGE = 0x80, RING0 = PAGE_PRESENT | PAGE_WRITABLE, ANY_RING = RING0 | PAGE_USER };
    // Upper levels permit everything: the last level decides.
    root[0] = (uint64_t)upper | ANY_RING;
    upper[0] = (uint64_t)low_middle | ANY_RING;
    upper[WINDOW >> 30] = (uint64_t)window_middle | ANY_RING;
    low_middle[0] = (uint64_t)low_pages | ANY_RING;
    window_middle[0] = (uint64_t)window_pages | ANY_RING;
    for (uint64_t index = 1; index < 512; ++index) low_middle[index] = index << 21 | LARGE | RING0;
    for (uint64_t index = 0; index < 512; ++index) {
        uint64_t address = index * PAGE_BYTES;
        int user = address >= user_start && address < user_end;
        low_pages[index] = address | (user ? ANY_RING : RING0);
    }
    __asm__ volatile("movq %0, %%cr3" : : "r"(root) : "memory");
}

int paging_map_window(uint64_t address) {
    uint64_t page = (address - WINDOW) / PAGE_BYTES;
    if (address < WINDOW || page >= 512 || frames_used == WINDOW_PAGES) return 0;
    window_pages[page] = (uint64_t)window_frames[frames_used++]
        | PAGE_PRESENT | PAGE_WRITABLE | PAGE_USER;
    return 1;
}
