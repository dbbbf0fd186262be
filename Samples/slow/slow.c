// Computes for a long time between exits: `slow [EXITS [LOOPS]]`. Where ring 0 is emulated
// (about a million instructions a second) the default is an exit every second or so.
#include "../common/io.h"

static uint64_t compute(uint64_t state, uint64_t loops) {
    while (loops--) {   // xorshift64: four or so instructions for each of its three steps
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    return state;
}

int kernel_main(const char *command_line) {
    uint64_t exits = parse_decimal(&command_line, 60);
    uint64_t loops = parse_decimal(&command_line, 130000);
    uint64_t state = 0x9E3779B97F4A7C15;
    for (uint64_t done = 0; done < exits; ++done) {
        state = compute(state, loops);
        port_write8(PORT_POST, (uint8_t)state);
    }
    return 0;
}
