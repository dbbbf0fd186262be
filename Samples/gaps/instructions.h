// One function for each instruction that computes something: the flags before it are given, those
// after it returned.
#ifndef SAMPLES_GAPS_H
#define SAMPLES_GAPS_H

#include <stdint.h>

struct result {
    uint64_t value, flags;
};

#define UNARY(NAME, TEXT, TYPE, OUT)                                                            \
    static struct result NAME(uint64_t a, uint64_t b, uint64_t flags) {                         \
        OUT value = (OUT)-1;                                                                    \
        (void)b;                                                                                \
        __asm__ volatile("pushq %1; popfq; " TEXT "; pushfq; popq %1"                           \
            : "=&r"(value), "+&r"(flags) : "r"((TYPE)a) : "cc", "memory");                      \
        return (struct result){(uint64_t)value, flags};                                         \
    }

#define BINARY(NAME, TEXT, TYPE)                                                                \
    static struct result NAME(uint64_t a, uint64_t b, uint64_t flags) {                         \
        TYPE value = (TYPE)-1;                                                                  \
        __asm__ volatile("pushq %1; popfq; " TEXT "; pushfq; popq %1"                           \
            : "=&r"(value), "+&r"(flags) : "r"((TYPE)a), "r"((TYPE)b) : "cc", "memory");        \
        return (struct result){(uint64_t)value, flags};                                         \
    }

// The first operand is a source and the destination.
#define ONTO(NAME, TEXT, TYPE, SOURCE)                                                          \
    static struct result NAME(uint64_t a, uint64_t b, uint64_t flags) {                         \
        TYPE value = (TYPE)a;                                                                   \
        __asm__ volatile("pushq %1; popfq; " TEXT "; pushfq; popq %1"                           \
            : "+&r"(value), "+&r"(flags) : "r"((SOURCE)b) : "cc", "memory");                    \
        return (struct result){(uint64_t)value, flags};                                         \
    }

UNARY(popcnt16, "popcntw %2, %0", uint16_t, uint16_t)
UNARY(popcnt32, "popcntl %2, %0", uint32_t, uint32_t)
UNARY(popcnt64, "popcntq %2, %0", uint64_t, uint64_t)
ONTO(crc32_8, "crc32b %2, %0", uint32_t, uint8_t)
ONTO(crc32_16, "crc32w %2, %0", uint32_t, uint16_t)
ONTO(crc32_32, "crc32l %2, %0", uint32_t, uint32_t)
ONTO(crc32_64, "crc32q %2, %0", uint64_t, uint64_t)
BINARY(andn32, "andnl %3, %2, %0", uint32_t)
BINARY(andn64, "andnq %3, %2, %0", uint64_t)
BINARY(bextr32, "bextrl %3, %2, %0", uint32_t)
BINARY(bextr64, "bextrq %3, %2, %0", uint64_t)
UNARY(blsi32, "blsil %2, %0", uint32_t, uint32_t)
UNARY(blsi64, "blsiq %2, %0", uint64_t, uint64_t)
UNARY(blsmsk32, "blsmskl %2, %0", uint32_t, uint32_t)
UNARY(blsmsk64, "blsmskq %2, %0", uint64_t, uint64_t)
UNARY(blsr32, "blsrl %2, %0", uint32_t, uint32_t)
UNARY(blsr64, "blsrq %2, %0", uint64_t, uint64_t)
BINARY(bzhi32, "bzhil %3, %2, %0", uint32_t)
BINARY(bzhi64, "bzhiq %3, %2, %0", uint64_t)
BINARY(pdep32, "pdepl %3, %2, %0", uint32_t)
BINARY(pdep64, "pdepq %3, %2, %0", uint64_t)
BINARY(pext32, "pextl %3, %2, %0", uint32_t)
BINARY(pext64, "pextq %3, %2, %0", uint64_t)
UNARY(rorx32, "rorxl $7, %2, %0", uint32_t, uint32_t)
UNARY(rorx64, "rorxq $41, %2, %0", uint64_t, uint64_t)
BINARY(sarx32, "sarxl %3, %2, %0", uint32_t)
BINARY(sarx64, "sarxq %3, %2, %0", uint64_t)
BINARY(shlx32, "shlxl %3, %2, %0", uint32_t)
BINARY(shlx64, "shlxq %3, %2, %0", uint64_t)
BINARY(shrx32, "shrxl %3, %2, %0", uint32_t)
BINARY(shrx64, "shrxq %3, %2, %0", uint64_t)
ONTO(adcx32, "adcxl %2, %0", uint32_t, uint32_t)
ONTO(adcx64, "adcxq %2, %0", uint64_t, uint64_t)
ONTO(adox32, "adoxl %2, %0", uint32_t, uint32_t)
ONTO(adox64, "adoxq %2, %0", uint64_t, uint64_t)

#define EACH(X)                                                                                 \
    X(popcnt16) X(popcnt32) X(popcnt64) X(crc32_8) X(crc32_16) X(crc32_32) X(crc32_64)          \
    X(andn32) X(andn64) X(bextr32) X(bextr64) X(blsi32) X(blsi64) X(blsmsk32) X(blsmsk64)       \
    X(blsr32) X(blsr64) X(bzhi32) X(bzhi64) X(pdep32) X(pdep64) X(pext32) X(pext64) X(rorx32)   \
    X(rorx64) X(sarx32) X(sarx64) X(shlx32) X(shlx64) X(shrx32) X(shrx64) X(adcx32) X(adcx64)   \
    X(adox32) X(adox64)

#endif
