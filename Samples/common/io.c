#include "io.h"

void uart_write_byte(uint8_t byte) {
    while (!(port_read8(PORT_UART_LINE_STATUS) & LINE_STATUS_TRANSMITTER_EMPTY)) {
    }
    port_write8(PORT_UART_DATA, byte);
}

uint8_t uart_read_byte(void) {
    while (!(port_read8(PORT_UART_LINE_STATUS) & LINE_STATUS_DATA_READY)) {
    }
    return port_read8(PORT_UART_DATA);
}

void uart_write(const char *text) {
    while (*text) uart_write_byte((uint8_t)*text++);
}

void uart_write_decimal(uint64_t value) {
    char digits[20];
    int count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (count) uart_write_byte((uint8_t)digits[--count]);
}

void uart_write_hex(uint64_t value) {
    uart_write("0x");
    int shift = 60;
    while (shift && !(value >> shift)) shift -= 4;
    for (; shift >= 0; shift -= 4) uart_write_byte("0123456789abcdef"[(value >> shift) & 15]);
}

uint64_t parse_decimal(const char **text, uint64_t otherwise) {
    const char *at = *text;
    if (!at) return otherwise;
    while (*at == ' ') ++at;
    if (*at < '0' || *at > '9') return otherwise;
    uint64_t value = 0;
    while (*at >= '0' && *at <= '9') value = value * 10 + (uint64_t)(*at++ - '0');
    while (*at == ' ') ++at;
    *text = at;
    return value;
}
