// The guest of the benchmarks: reads the UART's line status and writes a byte to port 0x80, as
// often as the command line says. Two exits and five instructions a round.
#include "../common/io.h"

static void poll_rounds(uint32_t rounds) {
    __asm__ volatile(
        "1: inb %%dx, %%al\n"
        "   movl %%ecx, %%eax\n"
        "   outb %%al, $0x80\n"
        "   decl %%ecx\n"
        "   jnz 1b\n"
        : "+c"(rounds)
        : "d"((uint16_t)PORT_UART_LINE_STATUS)
        : "eax", "memory", "cc");
}

int kernel_main(const char *command_line) {
    uint32_t rounds = (uint32_t)parse_decimal(&command_line, 150000);
    if (rounds) poll_rounds(rounds);
    return 0;
}
