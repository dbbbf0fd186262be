// The program in ring 3: loops in which registers change, or memory alone, or a vector register
// alone, or a REP is under way; or one of two that never end.
#include "../common/io.h"
#include "shared.h"

struct shared shared = {.state = 0x9E3779B97F4A7C15};

static uint64_t compute(uint64_t value, unsigned rounds) {
    while (rounds--) {
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
    }
    return value;
}

// Each time round the program, registers and flags are the same at each instruction of these three:
// only the counter in memory tells the times apart, or the vector register.
static void count_in_memory(void) {
    __asm__ volatile(
        "movl $20000, %%ecx\n"
        "1: addq $2, %0\n"
        "nop\n"
        "loop 1b\n"
        : "+m"(shared.counter) : : "rcx", "cc", "memory");
}

static void count_in_vector(void) {
    __asm__ volatile(
        "movl $20000, %%ecx\n"
        "1: paddq %%xmm1, %%xmm0\n"
        "loop 1b\n"
        : : : "rcx", "cc", "memory");
}

static inline __attribute__((always_inline)) void copy_once(void) {
    void *to = shared.blocks[1];
    const void *from = shared.blocks[0];
    uint64_t count = BLOCK_BYTES;
    __asm__ volatile("cld; rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static void copy(unsigned times) {
    while (times--) copy_once();
}

_Noreturn static void compute_for_ever(void) {
    for (;;) {
        uint64_t value = shared.state;
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        shared.state = value;
        shared.counter = shared.counter + 2;
        shared.blocks[1][value % BLOCK_BYTES] = (uint8_t)value;
    }
}

// The next interrupt finds a REP under way, nearly always.
_Noreturn static void copy_for_ever(void) {
    for (;;) {
        uint64_t value = ++shared.counter;
        shared.blocks[0][value % BLOCK_BYTES] = (uint8_t)(value >> 3);
        copy_once();
    }
}

_Noreturn void user_main(void) {
    for (unsigned index = 0; index < BLOCK_BYTES; ++index)
        shared.blocks[0][index] = (uint8_t)(index * 7);
    __asm__ volatile(
        "movl $1, %%eax\n"
        "movq %%rax, %%xmm1\n"
        "pxor %%xmm0, %%xmm0\n"
        : : : "rax");
    uint64_t what = shared.mode >> MODE_WHAT_SHIFT;
    if (what == WHAT_LOOP) compute_for_ever();
    if (what == WHAT_REP_LOOP) copy_for_ever();
    for (;;) {
        if (what == WHAT_ALL || what == WHAT_REGISTERS)
            shared.state = compute(shared.state, 60000);
        if (what == WHAT_ALL || what == WHAT_MEMORY)
            for (unsigned times = 0; times < 4; ++times) count_in_memory();
        if (what == WHAT_ALL || what == WHAT_VECTOR) {
            for (unsigned times = 0; times < 4; ++times) count_in_vector();
            if (what == WHAT_ALL) __asm__ volatile("movups %%xmm0, %0" : "=m"(shared.vector));
        }
        if (what == WHAT_ALL || what == WHAT_REP) {
            if (what == WHAT_REP) shared.state = compute(shared.state, 1);
            shared.blocks[0][shared.state % BLOCK_BYTES] = (uint8_t)shared.state;
            copy(what == WHAT_REP ? 2000 : 100);
        }
        if (what == WHAT_ALL) shared.table[shared.state % TABLE_WORDS] ^= shared.state;
        if (shared.mode & MODE_FAULTS)
            for (unsigned times = 0; times < FAULTS_PER_ROUND; ++times) __asm__ volatile("hlt");
        if (shared.mode & MODE_PORT) port_write8(PORT_POST, (uint8_t)shared.state);
    }
}
