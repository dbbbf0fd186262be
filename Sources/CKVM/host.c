#define _GNU_SOURCE
#include "ckvm.h"
#include <cpuid.h>
#include <sched.h>
#include <time.h>

long ckvm_pin_thread(unsigned cpu) {
    if (cpu >= CPU_SETSIZE) return -EINVAL;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
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
