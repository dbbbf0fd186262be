// The program in ring 3. It has no port and no memory of the kernel's: all it can do is call, and
// touch pages that the kernel makes when it faults.
#include "calls.h"

enum { USER_WINDOW = 0x40000000, PAGE_WORDS = 512 };

static uint64_t call(uint64_t what, uint64_t argument) {
    uint64_t result;
    __asm__ volatile(
        "syscall" : "=a"(result) : "a"(what), "D"(argument)
        : "rcx", "r11", "rsi", "rdx", "r8", "r9", "r10", "memory");
    return result;
}

void user_main(void) {
    volatile uint64_t *window = (volatile uint64_t *)USER_WINDOW;
    uint64_t limit = call(CALL_LIMIT, 0);
    uint64_t sum = 0;
    for (uint64_t number = 0; number < limit; ++number) {
        if (number < 8) window[number * PAGE_WORDS] = number;
        sum = call(CALL_ADD, number + (number < 8 ? window[number * PAGE_WORDS] : sum));
    }
    call(CALL_END, sum);
    for (;;) {
    }
}
