// Descriptor tables, exceptions and paging of a small long-mode kernel (Intel SDM volume 3,
// chapters 3 to 7).
#ifndef SAMPLES_PROCESSOR_H
#define SAMPLES_PROCESSOR_H

#include <stddef.h>
#include <stdint.h>

enum {
    KERNEL_CODE = 0x08,
    KERNEL_DATA = 0x10,
    USER_DATA = 0x18 | 3,
    USER_CODE = 0x20 | 3,
    TASK_STATE = 0x28,

    VECTOR_GENERAL_PROTECTION = 13,
    VECTOR_PAGE_FAULT = 14,
    GATE_COUNT = 32,

    PAGE_BYTES = 0x1000,
    PAGE_PRESENT = 1,
    PAGE_WRITABLE = 2,
    PAGE_USER = 4,

    // Nothing is mapped here until paging_map_window does it, page by page.
    WINDOW = 0x40000000,
    WINDOW_PAGES = 16,
};

struct gate {
    uint16_t offset_low;
    uint16_t selector;
    uint8_t stack;
    uint8_t type;
    uint16_t offset_middle;
    uint32_t offset_high;
    uint32_t zero;
};
_Static_assert(sizeof(struct gate) == 16, "a long-mode gate is 16 bytes");

// What exceptions.S pushes, lowest address first.
struct exception_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

// A GDT with segments for both rings and a TSS with a stack for exceptions from ring 3.
void load_segments(void);

// Lets ring 3 use these ports (below 0x400). By the TSS and not by IOPL: a KVM without hardware
// virtualization loses IOPL on the way to ring 3.
void permit_ports(uint16_t first, uint16_t last);

void set_gate(struct gate *table, int vector, void (*handler)(void));
void load_gates(const struct gate *table);

// exceptions.S: the handlers, which call exception(), which each kernel defines.
void general_protection_entry(void);
void page_fault_entry(void);
void exception(struct exception_frame *frame);

// Switches to page tables of the kernel's own: the low 1 GiB at its own addresses, of which ring 3
// may reach the pages in [user_start, user_end).
void paging_start(uint64_t user_start, uint64_t user_end);

// Puts a zeroed page at the page of `address`; the result is 0 if that is not in the window.
int paging_map_window(uint64_t address);

#endif
