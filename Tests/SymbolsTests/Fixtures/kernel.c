// Inlined calls two and three deep, a weak function, aliases, a static function, and data.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned long word;

static inline __attribute__((always_inline)) void port_out(u16 port, u8 value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline __attribute__((always_inline)) u8 port_in(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline __attribute__((always_inline)) void uart_put(u8 byte) {
    while (!(port_in(0x3FD) & 0x20)) {}
    port_out(0x3F8, byte);
}

word written;

__attribute__((noinline)) void uart_write(const char *text) {
    for (; *text; text++) {
        if (*text == '\n') uart_put('\r');
        uart_put((u8)*text);
        written++;
    }
}

void console_write(const char *text) __attribute__((alias("uart_write")));

__attribute__((weak, noinline)) word checksum(const u8 *bytes, word count) {
    word sum = 0;
    for (word i = 0; i < count; i++) sum = sum * 31 + bytes[i];
    return sum;
}

static __attribute__((noinline)) word mix(word a, word b) {
    return checksum((const u8 *)&a, sizeof a) ^ b;
}

void halt(void);

void kmain(word seed) {
    uart_write("hello\n");
    uart_put((u8)('0' + mix(seed, written) % 10));
    halt();
}
