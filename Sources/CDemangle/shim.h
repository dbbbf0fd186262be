#include <stddef.h>
#include <stdint.h>

/* The Swift runtime exports its demangler to C, but has no header for it. The result is NULL or
 * a string of malloc where buffer is NULL; flags are 0. (swift, include/swift/Demangling) */
char *swift_demangle(
    const char *name, size_t length, char *buffer, size_t *buffer_size, uint32_t flags);
