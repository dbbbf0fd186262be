// Preloaded by tools/bench into a recording: counts calls of malloc, calloc, realloc and the
// aligned ones, on each thread and in all. The allocator itself stays glibc's.
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

static _Atomic uint64_t all;
static _Thread_local __attribute__((tls_model("initial-exec"))) uint64_t of_thread;

static void count(void) {
    ++of_thread;
    atomic_fetch_add_explicit(&all, 1, memory_order_relaxed);
}

uint64_t counted_thread_allocations(void) { return of_thread; }
uint64_t counted_allocations(void) { return atomic_load_explicit(&all, memory_order_relaxed); }

void *malloc(size_t size) { return count(), __libc_malloc(size); }
void *calloc(size_t number, size_t size) { return count(), __libc_calloc(number, size); }
void *realloc(void *old, size_t size) { return count(), __libc_realloc(old, size); }
void *memalign(size_t alignment, size_t size) { return count(), __libc_memalign(alignment, size); }
void *aligned_alloc(size_t alignment, size_t size) {
    return count(), __libc_memalign(alignment, size);
}

int posix_memalign(void **result, size_t alignment, size_t size) {
    void *memory = (count(), __libc_memalign(alignment, size));
    if (!memory) return ENOMEM;
    *result = memory;
    return 0;
}
