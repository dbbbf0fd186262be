#ifndef SYSCALL_CALLS_H
#define SYSCALL_CALLS_H

#include <stdint.h>

// What ring 3 asks for.
enum {
    CALL_ADD,     // mixes the argument into the sum, and gives it back
    CALL_LIMIT,   // how often to call
    CALL_END,     // compares the argument with the sum, prints, halts
};

void user_main(void);

#endif
