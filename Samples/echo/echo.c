// Answers what is typed on the first serial port: each line comes back reversed and in capitals.
// `quit` halts; `exit N` ends through the isa-debug-exit port with N.
#include "../common/io.h"

enum { LINE_CAPACITY = 128 };

static char upper(char character) {
    return character >= 'a' && character <= 'z' ? (char)(character - 'a' + 'A') : character;
}

// Reads up to the end of the line, showing what is typed; the result is its length.
static int read_line(char line[LINE_CAPACITY]) {
    int length = 0;
    for (;;) {
        char typed = (char)uart_read_byte();
        if (typed == '\r' || typed == '\n') break;
        if (typed == 0x7F || typed == '\b') {
            if (!length) continue;
            --length;
            uart_write("\b \b");
        } else if (length < LINE_CAPACITY - 1) {
            line[length++] = typed;
            uart_write_byte((uint8_t)typed);
        }
    }
    uart_write("\r\n");
    line[length] = 0;
    return length;
}

static void answer(const char *line, int length) {
    while (length) uart_write_byte((uint8_t)upper(line[--length]));
    uart_write("\r\n");
}

// Whether the line starts with the word; *rest is then what follows it.
static int starts_with(const char *line, const char *word, const char **rest) {
    while (*word && *line == *word) ++line, ++word;
    *rest = line;
    return !*word && (*line == 0 || *line == ' ');
}

int kernel_main(const char *command_line) {
    (void)command_line;
    char line[LINE_CAPACITY];
    const char *rest;
    uart_write("echo: type a line; quit or exit N ends\r\n");
    for (;;) {
        uart_write("> ");
        int length = read_line(line);
        if (starts_with(line, "quit", &rest)) return 0;
        if (starts_with(line, "exit", &rest)) {
            port_write8(PORT_DEBUG_EXIT, (uint8_t)parse_decimal(&rest, 0));
            return 0;   // where nothing listens on that port
        }
        answer(line, length);
    }
}
