// Sleeps until the first serial port interrupts, and answers each line in capitals. `quit` ends.
// A queue stands between the handler and the program; a handler that finds it full turns the
// port's interrupt off, and the program turns it on again when there is room.
#include "../common/interrupts.h"

enum {
    PORT_INTERRUPT_ENABLE = PORT_UART_DATA + 1,
    PORT_IDENTIFICATION = PORT_UART_DATA + 2,
    PORT_LINE_CONTROL = PORT_UART_DATA + 3,
    PORT_MODEM_CONTROL = PORT_UART_DATA + 4,

    RECEIVED_DATA = 0x01,             // IER
    FIFOS_TRIGGER_8 = 0x87,           // FCR: on, both cleared, interrupt at eight bytes
    EIGHT_BITS = 0x03,                // LCR
    CONNECTED_WITH_INTERRUPTS = 0x0B, // MCR: DTR, RTS, OUT2

    QUEUE_CAPACITY = 32,              // a power of two
    LINE_CAPACITY = 80,
};

static volatile uint8_t queue[QUEUE_CAPACITY];
static volatile unsigned queued, taken;   // how many so far, ever

void interrupt(unsigned line) {
    if (line != LINE_SERIAL) return;
    // The line is edge-triggered: it must fall before it can rise again.
    while (port_read8(PORT_UART_LINE_STATUS) & LINE_STATUS_DATA_READY) {
        if (queued - taken == QUEUE_CAPACITY) {
            port_write8(PORT_INTERRUPT_ENABLE, 0);
            return;
        }
        queue[queued % QUEUE_CAPACITY] = port_read8(PORT_UART_DATA);
        queued = queued + 1;
    }
}

static void start_serial(void) {
    port_write8(PORT_LINE_CONTROL, EIGHT_BITS);
    port_write8(PORT_IDENTIFICATION, FIFOS_TRIGGER_8);
    port_write8(PORT_MODEM_CONTROL, CONNECTED_WITH_INTERRUPTS);
    port_write8(PORT_INTERRUPT_ENABLE, RECEIVED_DATA);
}

static char next_typed(void) {
    for (;;) {
        interrupts_off();
        if (queued != taken) break;
        // Where the handler turned it off, this is a rising edge for what waits.
        port_write8(PORT_INTERRUPT_ENABLE, RECEIVED_DATA);
        wait_for_interrupt();
    }
    char typed = (char)queue[taken % QUEUE_CAPACITY];
    taken = taken + 1;
    interrupts_on();
    return typed;
}

static char upper(char character) {
    return character >= 'a' && character <= 'z' ? (char)(character - 'a' + 'A') : character;
}

static int is_quit(const char *line, int length) {
    return length == 4 && line[0] == 'q' && line[1] == 'u' && line[2] == 'i' && line[3] == 't';
}

int kernel_main(const char *command_line) {
    (void)command_line;
    char line[LINE_CAPACITY];
    int length = 0;
    interrupts_start(1 << LINE_SERIAL);
    start_serial();
    uart_write("irq-echo: type a line; quit ends\r\n");
    for (;;) {
        char typed = next_typed();
        if (typed == '\r' || typed == '\n') {
            uart_write("\r\n");
            if (is_quit(line, length)) break;
            for (int index = 0; index < length; ++index)
                uart_write_byte((uint8_t)upper(line[index]));
            uart_write("\r\n");
            length = 0;
        } else if (typed == 0x7F || typed == '\b') {
            if (!length) continue;
            --length;
            uart_write("\b \b");
        } else if (length < LINE_CAPACITY) {
            line[length++] = typed;
            uart_write_byte((uint8_t)typed);
        }
    }
    interrupts_stop();
    return 0;
}
