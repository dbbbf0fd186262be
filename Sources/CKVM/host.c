#define _GNU_SOURCE
#include "ckvm.h"
#include <cpuid.h>
#include <sched.h>
#include <time.h>

long ckvm_get_affinity(uint64_t *words, unsigned count) {
    cpu_set_t set;
    CPU_ZERO(&set);
    long result = ckvm_result(sched_getaffinity(0, sizeof set, &set));
    if (result < 0) return result;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE && cpu / 64 < count; cpu++)
        if (CPU_ISSET(cpu, &set)) words[cpu / 64] |= UINT64_C(1) << cpu % 64;
    return 0;
}

long ckvm_set_affinity(const uint64_t *words, unsigned count) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE && cpu / 64 < count; cpu++)
        if (words[cpu / 64] >> cpu % 64 & 1) CPU_SET(cpu, &set);
    return ckvm_result(sched_setaffinity(0, sizeof set, &set));
}

long ckvm_current_cpu(void) { return ckvm_result(sched_getcpu()); }

void ckvm_host_cpuid(uint32_t function, uint32_t index, uint32_t *four) {
    __cpuid_count(function, index, four[0], four[1], four[2], four[3]);
}

uint64_t ckvm_monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t ckvm_thread_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
