// What the Embedded Swift runtime expects of its surroundings.
typedef unsigned long size_t;
static char heap[4096];
static size_t used;
int posix_memalign(void **out, size_t alignment, size_t size) {
    used = (used + alignment - 1) & ~(alignment - 1);
    if (used + size > sizeof heap) return 12;
    *out = heap + used;
    used += size;
    return 0;
}
void free(void *p) { (void)p; }
void *memset(void *to, int byte, size_t count) {
    for (size_t i = 0; i < count; i++) ((volatile char *)to)[i] = (char)byte;
    return to;
}
