// Interrupts as an AT has them: two 8259A controllers, and gates for their sixteen lines.
#ifndef SAMPLES_INTERRUPTS_H
#define SAMPLES_INTERRUPTS_H

#include "io.h"

enum {
    LINE_TIMER = 0,
    LINE_SERIAL = 4,
};

// Loads descriptor tables, sets up both controllers and lets these lines through (a bit for each).
// Interrupts stay off.
void interrupts_start(uint16_t lines);

// Masks every line and turns interrupts off.
void interrupts_stop(void);

// What each sample defines: called with interrupts off, before the line is told that it ended.
void interrupt(unsigned line);

// interrupt-entries.S: the handlers of the sixteen lines.
extern void (*const interrupt_entries[16])(void);
void interrupt_arrived(uint64_t line);

INLINE void interrupts_off(void) { __asm__ volatile("cli" : : : "memory"); }
INLINE void interrupts_on(void) { __asm__ volatile("sti" : : : "memory"); }

// Turns interrupts on and waits for one: none can come between the two instructions.
INLINE void wait_for_interrupt(void) { __asm__ volatile("sti\n\thlt" : : : "memory"); }

#endif
