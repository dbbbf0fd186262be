// What the program in ring 3 computes on, and the handler in ring 0 looks at.
#ifndef PREEMPTED_RING3_SHARED_H
#define PREEMPTED_RING3_SHARED_H

#include <stdint.h>

enum {
    TABLE_WORDS = 64,
    BLOCK_BYTES = 3000,
    MODE_FAULTS = 1,
    MODE_PORT = 2,
    MODE_WHAT_SHIFT = 2,
    WHAT_ALL = 0,
    WHAT_REGISTERS = 1,
    WHAT_MEMORY = 2,
    WHAT_REP = 3,
    WHAT_VECTOR = 4,
    WHAT_LOOP = 5,
    WHAT_REP_LOOP = 6,
    FAULTS_PER_ROUND = 20,
};

struct shared {
    uint64_t mode;
    volatile uint64_t state;
    volatile uint64_t counter;
    volatile uint64_t vector[2];   // what the loop with SSE last stored
    volatile uint64_t now[2];      // what the handler found in the vector register
    uint64_t table[TABLE_WORDS];
    uint8_t blocks[2][BLOCK_BYTES];
};

extern struct shared shared;

_Noreturn void user_main(void);

#endif
