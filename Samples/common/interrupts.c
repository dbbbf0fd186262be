// The controllers as the 8259A's data sheet has them (Intel 231468).
#include "interrupts.h"
#include "processor.h"

enum {
    LINE_COUNT = 16,
    FIRST_VECTOR = GATE_COUNT,   // behind the exceptions

    FIRST_COMMAND = 0x20,
    FIRST_DATA = 0x21,
    SECOND_COMMAND = 0xA0,
    SECOND_DATA = 0xA1,
    CASCADE_LINE = 2,

    INITIALISE = 0x11,            // ICW1: edge-triggered, cascaded, ICW4 follows
    MODE_8086 = 0x01,             // ICW4
    READ_IN_SERVICE = 0x0B,       // OCW3
    END_OF_INTERRUPT = 0x60,      // OCW2, specific: the line is in the low bits
};

static struct gate gates[FIRST_VECTOR + LINE_COUNT];

static void load_all_gates(void) {
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) table = {sizeof gates - 1, (uint64_t)gates};
    __asm__ volatile("lidt %0" : : "m"(table));
}

void interrupts_start(uint16_t lines) {
    load_segments();
    for (int line = 0; line < LINE_COUNT; ++line)
        set_gate(gates, FIRST_VECTOR + line, interrupt_entries[line]);
    load_all_gates();
    port_write8(FIRST_COMMAND, INITIALISE);
    port_write8(FIRST_DATA, FIRST_VECTOR);
    port_write8(FIRST_DATA, 1 << CASCADE_LINE);
    port_write8(FIRST_DATA, MODE_8086);
    port_write8(SECOND_COMMAND, INITIALISE);
    port_write8(SECOND_DATA, FIRST_VECTOR + 8);
    port_write8(SECOND_DATA, CASCADE_LINE);
    port_write8(SECOND_DATA, MODE_8086);
    if (lines >> 8) lines |= 1 << CASCADE_LINE;
    port_write8(FIRST_DATA, (uint8_t)~lines);
    port_write8(SECOND_DATA, (uint8_t)(~lines >> 8));
}

void interrupts_stop(void) {
    interrupts_off();
    port_write8(FIRST_DATA, 0xFF);
    port_write8(SECOND_DATA, 0xFF);
}

static int is_in_service(uint16_t command, unsigned line) {
    port_write8(command, READ_IN_SERVICE);
    return port_read8(command) >> (line & 7) & 1;
}

void interrupt_arrived(uint64_t arrived) {
    unsigned line = (unsigned)arrived;
    uint16_t command = line < 8 ? FIRST_COMMAND : SECOND_COMMAND;
    // A request that went away comes as the lowest line, and must not be ended.
    int is_spurious = (line & 7) == 7 && !is_in_service(command, line);
    if (!is_spurious) {
        interrupt(line);
        port_write8(command, (uint8_t)(END_OF_INTERRUPT | (line & 7)));
    }
    // The first controller does not know what came of the second's request.
    if (line >= 8) port_write8(FIRST_COMMAND, END_OF_INTERRUPT | CASCADE_LINE);
}
