// The program that runs in ring 3. It may use the UART's ports, and nothing of the
// kernel's memory.
#include "../common/io.h"
#include "ring3.h"

static void print(const char *text) {
    while (*text) {
        while (!(port_read8(PORT_UART_LINE_STATUS) & LINE_STATUS_TRANSMITTER_EMPTY)) {
        }
        port_write8(PORT_UART_DATA, (uint8_t)*text++);
    }
}

static void print_decimal(uint64_t value) {
    char digits[21];
    int at = 20;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    print(digits + at);
}

// How many steps the Collatz sequence takes from `number` to 1.
static uint64_t collatz_steps(uint64_t number) {
    uint64_t steps = 0;
    for (; number != 1; ++steps) number = number & 1 ? 3 * number + 1 : number / 2;
    return steps;
}

static uint64_t longest_collatz(uint64_t limit) {
    uint64_t best = 1, most = 0;
    for (uint64_t number = 1; number < limit; ++number) {
        uint64_t steps = collatz_steps(number);
        if (steps > most) {
            most = steps;
            best = number;
        }
    }
    return best;
}

// Writes to pages that do not exist until the kernel's page-fault handler makes them.
static uint64_t touch_pages(volatile uint64_t *window, unsigned pages) {
    uint64_t sum = 0;
    for (unsigned page = 0; page < pages; ++page) window[page * 512] = page + 1;
    for (unsigned page = 0; page < pages; ++page) sum += window[page * 512];
    return sum;
}

void user_main(void) {
    print("ring 3: hello\nring 3: the longest Collatz sequence below 20000 starts at ");
    print_decimal(longest_collatz(20000));
    print("\n");
    uint64_t sum = touch_pages((volatile uint64_t *)USER_WINDOW, 4);
    print("ring 3: pages that were not there add up to ");
    print_decimal(sum);
    print("\nring 3: trying to halt\n");
    __asm__ volatile("hlt" : : "D"(sum));   // privileged: the kernel ends the program
    for (;;) {
    }
}
