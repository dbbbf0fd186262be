// Ports and the polled UART, for the samples in C and in Embedded Swift alike.
#ifndef SAMPLES_IO_H
#define SAMPLES_IO_H

#include <stddef.h>
#include <stdint.h>

// Part of their caller even in builds that keep every function apart.
#define INLINE static inline __attribute__((always_inline))

enum {
    PORT_POST = 0x80,         // unclaimed: reads as ones, swallows writes
    PORT_DEBUG_EXIT = 0xF4,   // isa-debug-exit: process status is value << 1 | 1
    PORT_UNCLAIMED = 0x300,   // likewise
    PORT_UART_DATA = 0x3F8,
    PORT_UART_LINE_STATUS = 0x3FD,
    LINE_STATUS_DATA_READY = 0x01,
    LINE_STATUS_TRANSMITTER_EMPTY = 0x20,
};

INLINE void port_write8(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

INLINE uint8_t port_read8(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

void uart_write_byte(uint8_t byte);
uint8_t uart_read_byte(void);
void uart_write(const char *text);
void uart_write_decimal(uint64_t value);
void uart_write_hex(uint64_t value);

// The decimal number at *text, which is moved past it and past the blanks around it;
// `otherwise` if there is none.
uint64_t parse_decimal(const char **text, uint64_t otherwise);

// What each sample defines: its result ends the guest (start.S).
int kernel_main(const char *command_line);

#endif
