// Finds the local APIC and the I/O APIC by the tables that firmware leaves, and uses what they
// have: every mode of the timer, priorities, interrupts to itself, lines through the I/O APIC and
// through the virtual wire. A line a check; status 3 if one failed. `apic-timer [TICKS]` (default 10)
// says how many periodic interrupts to wait for.
#include "../common/interrupts.h"
#include "../common/processor.h"

enum {
    MODEL_APIC_BASE = 0x1B,          // MSRs
    MODEL_TIMER_DEADLINE = 0x6E0,
    BASE_ENABLED = 1 << 11,
    FEATURE_APIC = 1 << 9,           // CPUID leaf 1, EDX
    FEATURE_DEADLINE = 1 << 24,      // ECX

    // Registers of the local APIC, by their offsets (Intel SDM vol. 3, table 12-1).
    APIC_VERSION = 0x30,
    APIC_TASK_PRIORITY = 0x80,
    APIC_END = 0xB0,
    APIC_SPURIOUS = 0xF0,
    APIC_ERRORS = 0x280,
    APIC_COMMAND = 0x300,
    APIC_TIMER = 0x320,
    APIC_LINE_0 = 0x350,
    APIC_ERROR_ENTRY = 0x370,
    APIC_INITIAL_COUNT = 0x380,
    APIC_CURRENT_COUNT = 0x390,
    APIC_DIVIDE = 0x3E0,

    SOFTWARE_ENABLED = 0x100,
    MASKED = 1 << 16,
    PERIODIC = 1 << 17,
    DEADLINE = 2 << 17,
    TO_ITSELF = 1 << 18,
    NON_MASKABLE = 0x400,
    EXTERNAL = 0x700,
    DIVIDE_BY_1 = 0xB,
    DIVIDE_BY_16 = 0x3,

    // Registers of the I/O APIC.
    IO_SELECT = 0x00,
    IO_WINDOW = 0x10,
    IO_VERSION = 0x01,
    IO_ENTRIES = 0x10,

    // The handlers, and the vectors that they are put at: classes 4 to 7, and one at the top.
    HANDLER_LOW = 0,
    HANDLER_TIMER,
    HANDLER_LINE,
    HANDLER_SERIAL,
    HANDLER_HIGH,
    HANDLER_ERROR,
    HANDLER_EXTERNAL,
    HANDLER_NON_MASKABLE,
    HANDLER_SPURIOUS,
    HANDLER_EXTERNAL_SPURIOUS,
    HANDLER_COUNT,
    VECTOR_LOW = 0x41,
    VECTOR_TIMER = 0x52,
    VECTOR_LINE = 0x63,
    VECTOR_SERIAL = 0x64,
    VECTOR_HIGH = 0x74,
    VECTOR_ERROR = 0xFE,
    VECTOR_SPURIOUS = 0xFF,
    VECTOR_EXTERNAL = 0x20,
    VECTOR_EXTERNAL_SPURIOUS = VECTOR_EXTERNAL + 7,
    VECTOR_NON_MASKABLE = 2,

    PORT_COUNTER_0 = 0x40,
    PORT_COUNTER_CONTROL = 0x43,
    RATE_GENERATOR = 0x34,           // counter 0, low byte then high byte, mode 2, binary
    COUNTER_HERTZ = 1193182,
    TICK_HERTZ = 100,
    DIVISOR = (COUNTER_HERTZ + TICK_HERTZ / 2) / TICK_HERTZ,

    PORT_INTERRUPT_ENABLE = PORT_UART_DATA + 1,
    PORT_IDENTIFICATION = PORT_UART_DATA + 2,
    PORT_MODEM_CONTROL = PORT_UART_DATA + 4,
    TRANSMITTER_EMPTY = 0x02,        // IER, and what IIR says of it
    CONNECTED_WITH_INTERRUPTS = 0x0B,

    GATES = 256,
    MILLISECOND = 1000000,           // counts of the bus clock, if it has 1 GHz
};

static struct gate gates[GATES];
static volatile uint32_t *local_apic, *io_apic;
static unsigned timer_pin;
static volatile uint64_t counts[HANDLER_COUNT];
static volatile unsigned order;      // the handlers as they came and went, a hexadecimal digit each
static volatile uint64_t last_stamp;
static const char *to_send;
static unsigned failures;

static uint32_t apic_read(unsigned offset) { return local_apic[offset / 4]; }
static void apic_write(unsigned offset, uint32_t value) { local_apic[offset / 4] = value; }

static uint32_t io_read(unsigned index) {
    io_apic[IO_SELECT / 4] = index;
    return io_apic[IO_WINDOW / 4];
}

static void io_write(unsigned index, uint32_t value) {
    io_apic[IO_SELECT / 4] = index;
    io_apic[IO_WINDOW / 4] = value;
}

static uint64_t time_stamp(void) {
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static uint64_t model_read(uint32_t index) {
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
    return (uint64_t)high << 32 | low;
}

static void model_write(uint32_t index, uint64_t value) {
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}

static void set_task_class(uint64_t value) {
    __asm__ volatile("mov %0, %%cr8" : : "r"(value) : "memory");
}

static uint64_t task_class(void) {
    uint64_t value;
    __asm__ volatile("mov %%cr8, %0" : "=r"(value) : : "memory");
    return value;
}

static void check(const char *name, uint64_t value, uint64_t expected) {
    uart_write(name);
    uart_write(": ");
    uart_write_hex(value);
    if (value != expected) {
        ++failures;
        uart_write(", should be ");
        uart_write_hex(expected);
    }
    uart_write("\n");
}

// A periodic interrupt may come once more before the program looks: a host that is late gives it
// between two instructions.
static void check_at_least(const char *name, uint64_t value, uint64_t expected) {
    check(name, value > expected ? expected : value, expected);
}

// MARK: What the tables say

static unsigned half_word(const uint8_t *at) { return at[0] | at[1] << 8; }
static uint32_t word(const uint8_t *at) { return half_word(at) | (uint32_t)half_word(at + 2) << 16; }

static int is_sound(const uint8_t *at, unsigned length) {
    uint8_t sum = 0;
    while (length) sum = (uint8_t)(sum + at[--length]);
    return sum == 0;
}

static int begins(const uint8_t *at, const char *signature) {
    while (*signature)
        if (*at++ != (uint8_t)*signature++) return 0;
    return 1;
}

static const uint8_t *find(uint64_t from, const char *signature, unsigned length) {
    for (const uint8_t *at = (const uint8_t *)from; at < (const uint8_t *)0x100000; at += 16)
        if (begins(at, signature) && is_sound(at, length)) return at;
    return 0;
}

// The MADT: addresses, and the pin of line 0 where it is not its own.
static int read_acpi(void) {
    const uint8_t *pointer = find(0xE0000, "RSD PTR ", 20);
    if (!pointer) return 0;
    const uint8_t *root = (const uint8_t *)(uint64_t)word(pointer + 16);
    if (!begins(root, "RSDT") || !is_sound(root, word(root + 4))) return 0;
    for (unsigned at = 36; at + 4 <= word(root + 4); at += 4) {
        const uint8_t *table = (const uint8_t *)(uint64_t)word(root + at);
        unsigned length = word(table + 4);
        if (!begins(table, "APIC") || !is_sound(table, length)) continue;
        local_apic = (volatile uint32_t *)(uint64_t)word(table + 36);
        for (unsigned entry = 44; entry + 2 <= length; entry += table[entry + 1]) {
            const uint8_t *of = table + entry;
            if (of[0] == 1) io_apic = (volatile uint32_t *)(uint64_t)word(of + 4);
            if (of[0] == 2 && of[3] == LINE_TIMER) timer_pin = word(of + 4);
            if (of[1] < 2) return 0;
        }
        return local_apic && io_apic;
    }
    return 0;
}

// The MP table: whether it says the same.
static int mp_table_agrees(void) {
    const uint8_t *pointer = find(0xF0000, "_MP_", 16);
    if (!pointer) return 0;
    const uint8_t *table = (const uint8_t *)(uint64_t)word(pointer + 4);
    if (!begins(table, "PCMP") || !is_sound(table, half_word(table + 4))) return 0;
    int agrees = word(table + 36) == (uint32_t)(uint64_t)local_apic;
    const uint8_t *entry = table + 44;
    for (unsigned left = half_word(table + 34); left; --left) {
        if (entry[0] == 2) agrees &= word(entry + 4) == (uint32_t)(uint64_t)io_apic;
        if (entry[0] == 3 && entry[1] == 0 && entry[5] == LINE_TIMER)
            agrees &= entry[7] == timer_pin;
        entry += entry[0] ? 8 : 20;
    }
    return agrees;
}

// MARK: Interrupts

static void note(unsigned digit) { order = order << 4 | digit; }

static void send_byte(void) {
    (void)port_read8(PORT_IDENTIFICATION);   // ends the request
    if (*to_send) {
        port_write8(PORT_UART_DATA, (uint8_t)*to_send++);
    } else {
        port_write8(PORT_INTERRUPT_ENABLE, 0);
    }
}

void interrupt_arrived(uint64_t handler) {
    counts[handler] = counts[handler] + 1;
    switch (handler) {
    case HANDLER_LOW:
        // A higher class comes at once, a vector of its own class only after the end.
        note(1);
        apic_write(APIC_COMMAND, TO_ITSELF | VECTOR_HIGH);
        if (counts[HANDLER_LOW] == 1) apic_write(APIC_COMMAND, TO_ITSELF | VECTOR_LOW);
        interrupts_on();
        (void)apic_read(APIC_VERSION);
        interrupts_off();
        note(2);
        break;
    case HANDLER_HIGH: note(3); break;
    case HANDLER_TIMER: last_stamp = time_stamp(); break;
    case HANDLER_SERIAL: send_byte(); break;
    case HANDLER_EXTERNAL:
        port_write8(0x20, 0x20);   // the 8259's, not the APIC's
        return;
    case HANDLER_NON_MASKABLE:
        // A second one waits for the end of this one.
        note(4);
        if (counts[handler] == 1) apic_write(APIC_COMMAND, TO_ITSELF | NON_MASKABLE);
        (void)apic_read(APIC_VERSION);
        note(5);
        return;
    // A request that went away while the CPU took it: nothing to end.
    case HANDLER_SPURIOUS:
    case HANDLER_EXTERNAL_SPURIOUS: return;
    default: break;
    }
    apic_write(APIC_END, 0);
}

static void wait_for(unsigned handler, uint64_t count) {
    for (;;) {
        interrupts_off();
        if (counts[handler] >= count) break;
        wait_for_interrupt();
    }
}

// Takes what came too late to be waited for: a period may end while its timer is being stopped.
static void take_waiting(void) {
    interrupts_on();
    (void)apic_read(APIC_VERSION);
    (void)apic_read(APIC_VERSION);
    interrupts_off();
}

static void start(void) {
    static const uint8_t vectors[HANDLER_COUNT] = {
        VECTOR_LOW, VECTOR_TIMER, VECTOR_LINE, VECTOR_SERIAL, VECTOR_HIGH, VECTOR_ERROR,
        VECTOR_EXTERNAL, VECTOR_NON_MASKABLE, VECTOR_SPURIOUS, VECTOR_EXTERNAL_SPURIOUS,
    };
    load_segments();
    for (unsigned index = 0; index < HANDLER_COUNT; ++index)
        set_gate(gates, vectors[index], interrupt_entries[index]);
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) table = {sizeof gates - 1, (uint64_t)gates};
    __asm__ volatile("lidt %0" : : "m"(table));
    // The 8259 pair: vectors out of the way, everything masked.
    static const struct { uint16_t port; uint8_t value; } pair[] = {
        {0x20, 0x11}, {0xA0, 0x11}, {0x21, VECTOR_EXTERNAL}, {0xA1, VECTOR_EXTERNAL + 8},
        {0x21, 0x04}, {0xA1, 0x02}, {0x21, 0x01}, {0xA1, 0x01}, {0x21, 0xFF}, {0xA1, 0xFF},
    };
    for (unsigned index = 0; index < sizeof pair / sizeof pair[0]; ++index)
        port_write8(pair[index].port, pair[index].value);
    apic_write(APIC_TASK_PRIORITY, 0);
    // First, since the entries of a disabled APIC stay masked.
    apic_write(APIC_SPURIOUS, SOFTWARE_ENABLED | VECTOR_SPURIOUS);
    apic_write(APIC_LINE_0, MASKED | EXTERNAL);
    apic_write(APIC_ERROR_ENTRY, VECTOR_ERROR);
}

static void start_interval_timer(void) {
    port_write8(PORT_COUNTER_CONTROL, RATE_GENERATOR);
    port_write8(PORT_COUNTER_0, DIVISOR & 0xFF);
    port_write8(PORT_COUNTER_0, DIVISOR >> 8);
}

// MARK: Checks

static void one_shot(void) {
    apic_write(APIC_DIVIDE, DIVIDE_BY_16);
    apic_write(APIC_TIMER, VECTOR_TIMER);
    apic_write(APIC_INITIAL_COUNT, 2 * MILLISECOND / 16);
    wait_for(HANDLER_TIMER, 1);
    check("one-shot: interrupts", counts[HANDLER_TIMER], 1);
    check("one-shot: current count", apic_read(APIC_CURRENT_COUNT), 0);
    // Masked, it counts down and tells nobody.
    apic_write(APIC_TIMER, MASKED | VECTOR_TIMER);
    apic_write(APIC_INITIAL_COUNT, 1);
    while (apic_read(APIC_CURRENT_COUNT)) {}
    take_waiting();
    check("one-shot: masked", counts[HANDLER_TIMER], 1);
}

static void periodic(uint64_t ticks) {
    counts[HANDLER_TIMER] = 0;
    uint64_t began = time_stamp();
    apic_write(APIC_DIVIDE, DIVIDE_BY_1);
    apic_write(APIC_TIMER, PERIODIC | VECTOR_TIMER);
    apic_write(APIC_INITIAL_COUNT, MILLISECOND);
    wait_for(HANDLER_TIMER, ticks);
    apic_write(APIC_INITIAL_COUNT, 0);
    check_at_least("periodic: interrupts", counts[HANDLER_TIMER], ticks);
    take_waiting();
    uart_write("periodic: the last after ");
    uart_write_decimal((last_stamp - began) / 1000);
    uart_write(" us\n");
}

static void deadline(void) {
    uint32_t leaf = 1, features, more;
    __asm__ volatile("cpuid" : "+a"(leaf), "=c"(features), "=d"(more) : : "rbx");
    check("CPUID: APIC", more & FEATURE_APIC, FEATURE_APIC);
    if (!(features & FEATURE_DEADLINE)) {
        uart_write("deadline: not shown\n");
        return;
    }
    apic_write(APIC_TIMER, DEADLINE | VECTOR_TIMER);
    // So far away that no delay of the host's makes it pass: 73 years at 1 GHz.
    uint64_t until = time_stamp() + (1ull << 61);
    model_write(MODEL_TIMER_DEADLINE, until);
    check("deadline: armed", model_read(MODEL_TIMER_DEADLINE) == until, 1);
    for (unsigned round = 0; round < 5; ++round) {
        counts[HANDLER_TIMER] = 0;
        until = time_stamp() + MILLISECOND;
        model_write(MODEL_TIMER_DEADLINE, until);
        wait_for(HANDLER_TIMER, 1);
        if (last_stamp < until) check("deadline: too early", last_stamp, until);
    }
    check("deadline: passed", model_read(MODEL_TIMER_DEADLINE), 0);
    // One in the past comes at once; a mode that is left is disarmed.
    counts[HANDLER_TIMER] = 0;
    model_write(MODEL_TIMER_DEADLINE, 1);
    wait_for(HANDLER_TIMER, 1);
    model_write(MODEL_TIMER_DEADLINE, time_stamp() + MILLISECOND);
    apic_write(APIC_TIMER, MASKED | VECTOR_TIMER);
    check("deadline: disarmed", model_read(MODEL_TIMER_DEADLINE), 0);
    take_waiting();
}

static void priorities(void) {
    interrupts_on();
    apic_write(APIC_COMMAND, TO_ITSELF | VECTOR_LOW);
    while (counts[HANDLER_LOW] < 2) (void)apic_read(APIC_VERSION);
    (void)apic_read(APIC_VERSION);
    check("priorities: order", order, 0x132132);
    // CR8 and the task priority register are one.
    counts[HANDLER_HIGH] = 0;
    set_task_class(VECTOR_HIGH >> 4);
    apic_write(APIC_COMMAND, TO_ITSELF | VECTOR_HIGH);
    check("priorities: task priority", apic_read(APIC_TASK_PRIORITY), VECTOR_HIGH & 0xF0);
    check("priorities: held back", counts[HANDLER_HIGH], 0);
    apic_write(APIC_TASK_PRIORITY, 0x3F);
    check("priorities: CR8", task_class(), 3);
    check("priorities: let through", counts[HANDLER_HIGH], 1);
    set_task_class(0);
    // An illegal vector is an error, which interrupts.
    apic_write(APIC_COMMAND, TO_ITSELF | 0x0F);
    (void)apic_read(APIC_VERSION);
    apic_write(APIC_ERRORS, 0);
    check("priorities: errors", apic_read(APIC_ERRORS) << 8 | counts[HANDLER_ERROR], 0x2001);
    interrupts_off();
    order = 0;
    apic_write(APIC_COMMAND, TO_ITSELF | NON_MASKABLE);
    (void)apic_read(APIC_VERSION);
    (void)apic_read(APIC_VERSION);
    check("priorities: NMIs", order, 0x4545);
}

static void lines(void) {
    check("lines: version", io_read(IO_VERSION), 0x170011);
    io_write(IO_ENTRIES + 2 * timer_pin + 1, 0);
    io_write(IO_ENTRIES + 2 * timer_pin, VECTOR_LINE);
    start_interval_timer();
    apic_write(APIC_DIVIDE, DIVIDE_BY_1);
    apic_write(APIC_INITIAL_COUNT, 0xFFFFFFFF);
    wait_for(HANDLER_LINE, 1);
    uint32_t began = apic_read(APIC_CURRENT_COUNT);
    wait_for(HANDLER_LINE, 6);
    uint32_t ended = apic_read(APIC_CURRENT_COUNT);
    apic_write(APIC_INITIAL_COUNT, 0);
    io_write(IO_ENTRIES + 2 * timer_pin, MASKED | VECTOR_LINE);
    check_at_least("lines: interval timer", counts[HANDLER_LINE], 6);
    uart_write("lines: the bus clock has ");
    uart_write_decimal((uint64_t)(began - ended) * TICK_HERTZ / 5 / 1000);
    uart_write(" kHz by it\n");

    to_send = "lines: this came byte by byte\n";
    io_write(IO_ENTRIES + 2 * LINE_SERIAL + 1, 0);
    io_write(IO_ENTRIES + 2 * LINE_SERIAL, VECTOR_SERIAL);
    port_write8(PORT_MODEM_CONTROL, CONNECTED_WITH_INTERRUPTS);
    port_write8(PORT_INTERRUPT_ENABLE, TRANSMITTER_EMPTY);
    wait_for(HANDLER_SERIAL, 31);
    io_write(IO_ENTRIES + 2 * LINE_SERIAL, MASKED | VECTOR_SERIAL);
    check("lines: serial port", counts[HANDLER_SERIAL], 31);

    // The 8259 pair behind LINT0, as a PC without APICs has it.
    apic_write(APIC_LINE_0, EXTERNAL);
    port_write8(0x21, 0xFE);
    wait_for(HANDLER_EXTERNAL, 3);
    port_write8(0x21, 0xFF);
    check_at_least("lines: virtual wire", counts[HANDLER_EXTERNAL], 3);
    apic_write(APIC_LINE_0, MASKED | EXTERNAL);
}

int kernel_main(const char *command_line) {
    uint64_t ticks = parse_decimal(&command_line, 10);
    if (!read_acpi()) {
        uart_write("apic-timer: no MADT: run it with --machine pc-apic\n");
        return 1;
    }
    check("tables: local APIC", (uint64_t)local_apic, 0xFEE00000);
    check("tables: I/O APIC", (uint64_t)io_apic, 0xFEC00000);
    check("tables: pin of line 0", timer_pin, 2);
    check("tables: MADT and MP table agree", (uint64_t)mp_table_agrees(), 1);
    check("APIC base", model_read(MODEL_APIC_BASE), (uint64_t)local_apic | BASE_ENABLED | 0x100);
    start();
    one_shot();
    periodic(ticks);
    deadline();
    priorities();
    lines();
    uart_write(failures ? "apic-timer: FAILED\n" : "apic-timer: all as expected\n");
    return failures != 0;
}
