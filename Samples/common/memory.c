// What compilers call behind the program's back, and a heap that only grows (Embedded Swift's
// arrays live in it). Plain loops: ring 0 may be emulated, where no vector instruction exists.
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict to, const void *restrict from, size_t count) {
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    return start;
}

void *memmove(void *to, const void *from, size_t count) {
    if ((uintptr_t)to - (uintptr_t)from >= count) return memcpy(to, from, count);
    unsigned char *target = to;
    const unsigned char *source = from;
    while (count--) target[count] = source[count];
    return to;
}

void *memset(void *to, int byte, size_t count) {
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(byte) : "memory");
    return start;
}

static unsigned char heap[256 << 10];
static size_t heap_used;

int posix_memalign(void **out, size_t alignment, size_t size) {
    size_t start = (heap_used + alignment - 1) & ~(alignment - 1);
    if (start > sizeof heap || size > sizeof heap - start) return 12;   // ENOMEM
    heap_used = start + size;
    *out = heap + start;
    return 0;
}

void free(void *memory) {
    (void)memory;
}
