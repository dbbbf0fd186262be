// Counts ticks of the interval timer at 100 Hz and sleeps in between: `timer [TICKS [EVERY]]`
// prints a line every EVERY ticks (default 10) and ends after TICKS (default 50).
#include "../common/interrupts.h"

enum {
    TICKS_PER_SECOND = 100,
    COUNTER_HERTZ = 1193182,
    DIVISOR = (COUNTER_HERTZ + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND,

    PORT_COUNTER_0 = 0x40,
    PORT_COUNTER_CONTROL = 0x43,
    RATE_GENERATOR = 0x34,   // counter 0, low byte then high byte, mode 2, binary
    LATCH_COUNTER_0 = 0x00,
};

static volatile uint64_t ticks;
static volatile uint16_t late;   // how far the counter had come when the last tick was taken

void interrupt(unsigned line) {
    if (line != LINE_TIMER) return;
    port_write8(PORT_COUNTER_CONTROL, LATCH_COUNTER_0);
    uint16_t count = port_read8(PORT_COUNTER_0);
    count |= (uint16_t)(port_read8(PORT_COUNTER_0) << 8);
    late = (uint16_t)(DIVISOR - count);
    ticks = ticks + 1;
}

static void start_timer(void) {
    port_write8(PORT_COUNTER_CONTROL, RATE_GENERATOR);
    port_write8(PORT_COUNTER_0, DIVISOR & 0xFF);
    port_write8(PORT_COUNTER_0, DIVISOR >> 8);
}

static uint64_t time_stamp(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

// With interrupts on: a tick may come at any of its exits.
static void report(uint64_t number) {
    uart_write("tick ");
    uart_write_decimal(number);
    uart_write(" at time stamp ");
    uart_write_decimal(time_stamp());
    uart_write(", taken ");
    uart_write_decimal((uint64_t)late * 1000000 / COUNTER_HERTZ);
    uart_write(" us late\n");
}

int kernel_main(const char *command_line) {
    uint64_t wanted = parse_decimal(&command_line, 50);
    uint64_t every = parse_decimal(&command_line, 10);
    uint64_t reported = 0;
    interrupts_start(1 << LINE_TIMER);
    start_timer();
    for (;;) {
        interrupts_off();
        uint64_t now = ticks;
        if (now >= wanted) break;
        if (every && now / every != reported) {
            interrupts_on();
            reported = now / every;
            report(reported * every);
        } else {
            wait_for_interrupt();
        }
    }
    interrupts_stop();
    uart_write("done\n");
    return 0;
}
