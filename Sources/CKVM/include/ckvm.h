// What Swift needs of <linux/kvm.h>: request wrappers and accessors of the shared run page.
//
// The _IO macros and most unions of the kernel's header do not import into Swift, and errno is
// not to be read there; so every request has a wrapper that returns a value >= 0 or -errno, and
// every field of the run page has an accessor. Requests other than KVM_RUN are repeated on EINTR:
// a kick may land in any of them, and only KVM_RUN has a meaning for it.
#ifndef CKVM_H
#define CKVM_H

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

// Layouts that the Swift side relies on.
_Static_assert(sizeof(struct kvm_regs) == 144, "GeneralRegisters has 18 words");
_Static_assert(sizeof(struct kvm_sregs) == 312, "SystemRegisters has 39 words");
_Static_assert(sizeof(struct kvm_sregs2) == 320, "SystemRegisters2 has 40 words");
_Static_assert(sizeof(struct kvm_vcpu_events) == 64, "VCPUEvents has 8 words");
_Static_assert(sizeof(struct kvm_debugregs) == 128, "4 + 2 + 1 + 9 words");
_Static_assert(sizeof(struct kvm_cpuid_entry2) == 40, "CPUID row");
_Static_assert(sizeof(struct kvm_msr_entry) == 16, "MSR row");
_Static_assert(sizeof(struct kvm_stats_header) == 24, "statistics header");
_Static_assert(offsetof(struct kvm_stats_desc, name) == 16, "statistics descriptor");
_Static_assert(offsetof(struct kvm_run, exit_reason) == 8, "run page");
_Static_assert(offsetof(struct kvm_run, io) == 32, "run page: the payload union");
_Static_assert(offsetof(struct kvm_run, kvm_valid_regs) == 288, "run page: 256 bytes of payload");
_Static_assert(offsetof(struct kvm_run, s) == 304, "run page: sync registers");
_Static_assert(sizeof(struct kvm_run) == 304 + 2048, "run page");
_Static_assert(sizeof(struct kvm_sync_regs) == 144 + 312 + 64, "sync registers");
_Static_assert(offsetof(struct kvm_sync_regs, sregs) == 144, "sync registers");
_Static_assert(offsetof(struct kvm_sync_regs, events) == 456, "sync registers");

enum {
    CKVM_API_VERSION = 12,
    CKVM_RUN_BYTES = sizeof(struct kvm_run),
    CKVM_PAYLOAD_OFFSET = offsetof(struct kvm_run, io),
    CKVM_PAYLOAD_BYTES = 256,
    CKVM_MMIO_DATA_OFFSET = offsetof(struct kvm_run, mmio.data),
    CKVM_REGS_OFFSET = offsetof(struct kvm_run, s.regs.regs),
    CKVM_SREGS_OFFSET = offsetof(struct kvm_run, s.regs.sregs),
    CKVM_EVENTS_OFFSET = offsetof(struct kvm_run, s.regs.events),
    CKVM_SYNC_REGS = 1,
    CKVM_SYNC_SREGS = 2,
    CKVM_SYNC_EVENTS = 4,
    CKVM_CPUID_HEADER_BYTES = sizeof(struct kvm_cpuid2),
    CKVM_MSRS_HEADER_BYTES = sizeof(struct kvm_msrs),
    CKVM_MSR_LIST_HEADER_BYTES = sizeof(struct kvm_msr_list),
};

// Exit reasons later than the header this is compiled with (Linux 6.1 knows up to 37), by
// Documentation/virt/kvm/api.rst.
enum {
    CKVM_EXIT_MEMORY_FAULT = 39,
    CKVM_EXIT_TDX = 40,
};

// Capabilities later than that header.
enum {
    CKVM_CAP_MEMORY_FAULT_INFO = 232,
};

// KVM_EXIT_MEMORY_FAULT, api.rst 5: flags, gpa, size.
struct ckvm_memory_fault {
    uint64_t flags;
    uint64_t gpa;
    uint64_t size;
};

static inline long ckvm_result(long value) { return value < 0 ? -(long)errno : value; }

static inline long ckvm_request(int fd, unsigned long request, unsigned long argument) {
    long value;
    do value = ckvm_result(ioctl(fd, request, argument));
    while (value == -EINTR);
    return value;
}

static inline long ckvm_request_pointer(int fd, unsigned long request, const void *_Nullable p) {
    return ckvm_request(fd, request, (unsigned long)p);
}

// --- Descriptors and mappings ------------------------------------------------------------------

static inline long ckvm_open(const char *_Nonnull path) {
    return ckvm_result(open(path, O_RDWR | O_CLOEXEC));
}

static inline void ckvm_close(int fd) { close(fd); }
static inline long ckvm_duplicate(int fd) {
    return ckvm_result(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

static inline void *_Nullable ckvm_map_run_page(int fd, size_t bytes, long *_Nonnull error) {
    void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *error = page == MAP_FAILED ? -(long)errno : 0;
    return page == MAP_FAILED ? NULL : page;
}

static inline void *_Nullable ckvm_map_memory(size_t bytes, long *_Nonnull error) {
    void *memory = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    *error = memory == MAP_FAILED ? -(long)errno : 0;
    return memory == MAP_FAILED ? NULL : memory;
}

static inline void ckvm_unmap(void *_Nonnull address, size_t bytes) { munmap(address, bytes); }

static inline long ckvm_pread(int fd, void *_Nonnull to, size_t bytes, uint64_t offset) {
    long value;
    do value = ckvm_result(pread(fd, to, bytes, (off_t)offset));
    while (value == -EINTR);
    return value;
}

// --- System ------------------------------------------------------------------------------------

static inline long ckvm_get_api_version(int fd) { return ckvm_request(fd, KVM_GET_API_VERSION, 0); }
static inline long ckvm_create_vm(int fd) { return ckvm_request(fd, KVM_CREATE_VM, 0); }
static inline long ckvm_check_extension(int fd, unsigned long capability) {
    return ckvm_request(fd, KVM_CHECK_EXTENSION, capability);
}
static inline long ckvm_get_vcpu_mmap_size(int fd) {
    return ckvm_request(fd, KVM_GET_VCPU_MMAP_SIZE, 0);
}
// These take a buffer that starts with struct kvm_cpuid2 or kvm_msr_list, its count filled in.
static inline long ckvm_get_supported_cpuid(int fd, void *_Nonnull p) {
    return ckvm_request_pointer(fd, KVM_GET_SUPPORTED_CPUID, p);
}
static inline long ckvm_get_msr_index_list(int fd, void *_Nonnull p) {
    return ckvm_request_pointer(fd, KVM_GET_MSR_INDEX_LIST, p);
}

// --- Virtual machine ---------------------------------------------------------------------------

static inline long ckvm_set_memory(
    int fd, uint32_t slot, uint32_t flags, uint64_t guest, uint64_t bytes,
    const void *_Nullable memory
) {
    struct kvm_userspace_memory_region region = {
        .slot = slot, .flags = flags, .guest_phys_addr = guest, .memory_size = bytes,
        .userspace_addr = (uint64_t)(uintptr_t)memory,
    };
    return ckvm_request_pointer(fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static inline long ckvm_get_dirty_log(int fd, uint32_t slot, void *_Nonnull bitmap) {
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = bitmap};
    return ckvm_request_pointer(fd, KVM_GET_DIRTY_LOG, &log);
}

static inline long ckvm_set_tss_address(int fd, uint64_t address) {
    return ckvm_request(fd, KVM_SET_TSS_ADDR, address);
}

static inline long ckvm_set_identity_map_address(int fd, uint64_t address) {
    return ckvm_request_pointer(fd, KVM_SET_IDENTITY_MAP_ADDR, &address);
}

static inline long ckvm_create_vcpu(int fd, uint32_t id) {
    return ckvm_request(fd, KVM_CREATE_VCPU, id);
}

static inline long ckvm_enable_capability(
    int fd, uint32_t capability, uint64_t a, uint64_t b, uint64_t c, uint64_t d
) {
    struct kvm_enable_cap enable = {.cap = capability, .args = {a, b, c, d}};
    return ckvm_request_pointer(fd, KVM_ENABLE_CAP, &enable);
}

static inline long ckvm_get_stats_fd(int fd) { return ckvm_request(fd, KVM_GET_STATS_FD, 0); }

static inline void ckvm_msr_filter_clear(struct kvm_msr_filter *_Nonnull filter) {
    memset(filter, 0, sizeof *filter);
}
static inline void ckvm_msr_filter_set(
    struct kvm_msr_filter *_Nonnull filter, unsigned index, uint32_t flags, uint32_t base,
    uint32_t count, uint8_t *_Nonnull bitmap
) {
    if (index >= KVM_MSR_FILTER_MAX_RANGES) return;
    filter->ranges[index] = (struct kvm_msr_filter_range){
        .flags = flags, .nmsrs = count, .base = base, .bitmap = bitmap};
}
static inline long ckvm_set_msr_filter(int fd, const struct kvm_msr_filter *_Nonnull filter) {
    return ckvm_request_pointer(fd, KVM_X86_SET_MSR_FILTER, filter);
}

// --- Virtual CPU -------------------------------------------------------------------------------

// Not repeated on EINTR, which here says that the vCPU was kicked.
static inline long ckvm_run(int fd) { return ckvm_result(ioctl(fd, KVM_RUN, 0)); }

#define CKVM_GETTER_AND_SETTER(name, GET, SET)                                                   \
    static inline long ckvm_get_##name(int fd, void *_Nonnull p) {                               \
        return ckvm_request_pointer(fd, GET, p);                                                 \
    }                                                                                            \
    static inline long ckvm_set_##name(int fd, const void *_Nonnull p) {                         \
        return ckvm_request_pointer(fd, SET, p);                                                 \
    }
CKVM_GETTER_AND_SETTER(regs, KVM_GET_REGS, KVM_SET_REGS)
CKVM_GETTER_AND_SETTER(sregs, KVM_GET_SREGS, KVM_SET_SREGS)
CKVM_GETTER_AND_SETTER(sregs2, KVM_GET_SREGS2, KVM_SET_SREGS2)
CKVM_GETTER_AND_SETTER(xsave, KVM_GET_XSAVE, KVM_SET_XSAVE)
CKVM_GETTER_AND_SETTER(xcrs, KVM_GET_XCRS, KVM_SET_XCRS)
CKVM_GETTER_AND_SETTER(debugregs, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS)
CKVM_GETTER_AND_SETTER(vcpu_events, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS)
CKVM_GETTER_AND_SETTER(msrs, KVM_GET_MSRS, KVM_SET_MSRS)
CKVM_GETTER_AND_SETTER(cpuid2, KVM_GET_CPUID2, KVM_SET_CPUID2)
#undef CKVM_GETTER_AND_SETTER

static inline long ckvm_get_xsave2(int fd, void *_Nonnull p) {
    return ckvm_request_pointer(fd, KVM_GET_XSAVE2, p);
}

// The state (>= 0) or -errno.
static inline long ckvm_get_mp_state(int fd) {
    struct kvm_mp_state state = {0};
    long value = ckvm_request_pointer(fd, KVM_GET_MP_STATE, &state);
    return value < 0 ? value : (long)state.mp_state;
}
static inline long ckvm_set_mp_state(int fd, uint32_t state) {
    struct kvm_mp_state value = {.mp_state = state};
    return ckvm_request_pointer(fd, KVM_SET_MP_STATE, &value);
}

static inline long ckvm_interrupt(int fd, uint32_t vector) {
    struct kvm_interrupt interrupt = {.irq = vector};
    return ckvm_request_pointer(fd, KVM_INTERRUPT, &interrupt);
}
static inline long ckvm_nmi(int fd) { return ckvm_request(fd, KVM_NMI, 0); }
static inline long ckvm_get_tsc_khz(int fd) { return ckvm_request(fd, KVM_GET_TSC_KHZ, 0); }

static inline long ckvm_set_guest_debug(
    int fd, uint32_t control, const uint64_t *_Nonnull debugreg8
) {
    struct kvm_guest_debug debug = {.control = control};
    memcpy(debug.arch.debugreg, debugreg8, sizeof debug.arch.debugreg);
    return ckvm_request_pointer(fd, KVM_SET_GUEST_DEBUG, &debug);
}

// --- The run page ------------------------------------------------------------------------------

#define CKVM_FIELD(type, name, path)                                                             \
    static inline type ckvm_##name(const struct kvm_run *_Nonnull run) { return run->path; }
CKVM_FIELD(uint32_t, exit_reason, exit_reason)
CKVM_FIELD(uint8_t, ready_for_interrupt_injection, ready_for_interrupt_injection)
CKVM_FIELD(uint64_t, run_cr8, cr8)
CKVM_FIELD(uint64_t, run_apic_base, apic_base)
CKVM_FIELD(uint64_t, hw_reason, hw.hardware_exit_reason)
CKVM_FIELD(uint64_t, fail_reason, fail_entry.hardware_entry_failure_reason)
CKVM_FIELD(uint32_t, fail_cpu, fail_entry.cpu)
CKVM_FIELD(uint32_t, ex_vector, ex.exception)
CKVM_FIELD(uint32_t, ex_error_code, ex.error_code)
CKVM_FIELD(uint8_t, io_direction, io.direction)
CKVM_FIELD(uint8_t, io_size, io.size)
CKVM_FIELD(uint16_t, io_port, io.port)
CKVM_FIELD(uint32_t, io_count, io.count)
CKVM_FIELD(uint64_t, io_data_offset, io.data_offset)
CKVM_FIELD(uint32_t, debug_exception, debug.arch.exception)
CKVM_FIELD(uint64_t, debug_pc, debug.arch.pc)
CKVM_FIELD(uint64_t, debug_dr6, debug.arch.dr6)
CKVM_FIELD(uint64_t, debug_dr7, debug.arch.dr7)
CKVM_FIELD(uint64_t, mmio_address, mmio.phys_addr)
CKVM_FIELD(uint32_t, mmio_len, mmio.len)
CKVM_FIELD(uint8_t, mmio_is_write, mmio.is_write)
CKVM_FIELD(uint64_t, hypercall_nr, hypercall.nr)
CKVM_FIELD(uint32_t, hypercall_longmode, hypercall.longmode)
CKVM_FIELD(uint64_t, tpr_rip, tpr_access.rip)
CKVM_FIELD(uint32_t, tpr_is_write, tpr_access.is_write)
CKVM_FIELD(uint32_t, internal_suberror, internal.suberror)
CKVM_FIELD(uint32_t, internal_ndata, internal.ndata)
CKVM_FIELD(uint32_t, event_type, system_event.type)
CKVM_FIELD(uint32_t, event_ndata, system_event.ndata)
CKVM_FIELD(uint8_t, eoi_vector, eoi.vector)
CKVM_FIELD(uint32_t, hyperv_type, hyperv.type)
CKVM_FIELD(uint32_t, msr_reason, msr.reason)
CKVM_FIELD(uint32_t, msr_index, msr.index)
CKVM_FIELD(uint64_t, msr_data, msr.data)
CKVM_FIELD(uint32_t, xen_type, xen.type)
CKVM_FIELD(uint32_t, notify_flags, notify.flags)
#undef CKVM_FIELD

// Indices are cut to the array, whatever the caller or the kernel says.
static inline uint64_t ckvm_hypercall_arg(const struct kvm_run *_Nonnull run, unsigned i) {
    return i < 6 ? run->hypercall.args[i] : 0;
}
static inline uint64_t ckvm_internal_data(const struct kvm_run *_Nonnull run, unsigned i) {
    return i < 16 ? run->internal.data[i] : 0;
}
static inline uint64_t ckvm_event_data(const struct kvm_run *_Nonnull run, unsigned i) {
    return i < 16 ? run->system_event.data[i] : 0;
}
// One of the first four 64-bit words of the payload, for exits later than the header.
static inline uint64_t ckvm_payload_word(const struct kvm_run *_Nonnull run, unsigned i) {
    uint64_t word = 0;
    if (i < 32) memcpy(&word, run->padding + i * 8, 8);
    return word;
}

static inline void ckvm_answer_msr(
    struct kvm_run *_Nonnull run, uint64_t data, uint8_t error
) {
    run->msr.data = data;
    run->msr.error = error;
}
static inline void ckvm_clear_exit_reason(struct kvm_run *_Nonnull run) {
    run->exit_reason = KVM_EXIT_UNKNOWN;
}
static inline void ckvm_set_sync_valid(struct kvm_run *_Nonnull run, uint64_t mask) {
    run->kvm_valid_regs = mask;
}
static inline void ckvm_set_sync_dirty(struct kvm_run *_Nonnull run, uint64_t mask) {
    run->kvm_dirty_regs |= mask;
}
static inline uint64_t ckvm_sync_dirty(const struct kvm_run *_Nonnull run) {
    return run->kvm_dirty_regs;
}
static inline void ckvm_set_cr8(struct kvm_run *_Nonnull run, uint64_t value) { run->cr8 = value; }
// Written by other threads and by the signal handler, read by the kernel.
static inline void ckvm_set_immediate_exit(struct kvm_run *_Nonnull run, uint8_t on) {
    __atomic_store_n(&run->immediate_exit, on, __ATOMIC_SEQ_CST);
}
static inline uint8_t ckvm_immediate_exit(const struct kvm_run *_Nonnull run) {
    return __atomic_load_n(&run->immediate_exit, __ATOMIC_SEQ_CST);
}

// --- Kicks (kick.c) ----------------------------------------------------------------------------

// What a kick acts on. Never freed: a signal that comes late finds it closed, not gone.
struct ckvm_kick;

struct ckvm_kick *_Nullable ckvm_kick_open(struct kvm_run *_Nonnull run);
// Detaches it from the run page, which may be unmapped afterwards. No other thread may be inside
// ckvm_kick_request for it.
void ckvm_kick_close(struct ckvm_kick *_Nonnull kick);
// The calling thread is the one that runs the vCPU from now on.
void ckvm_kick_bind_thread(struct ckvm_kick *_Nonnull kick);
// Makes the bound thread leave KVM_RUN, or its next KVM_RUN return at once.
void ckvm_kick_request(struct ckvm_kick *_Nonnull kick);
// 1 if a request is waiting.
int ckvm_kick_is_requested(const struct ckvm_kick *_Nonnull kick);
// Withdraws requests and immediate_exit; 1 if there was a request.
int ckvm_kick_acknowledge(struct ckvm_kick *_Nonnull kick);
// Ends an immediate_exit of the vCPU thread's own making, without losing a request.
void ckvm_kick_restore(struct ckvm_kick *_Nonnull kick);
// Installs the handler of the kick signal (SIGUSR1) once per process. 0 or -errno.
long ckvm_kick_install(void);

// A one-shot timer whose expiry is a kick of the thread that made it. Identifier or -errno.
long ckvm_timer_open(struct ckvm_kick *_Nonnull kick, void *_Nullable *_Nonnull timer);
void ckvm_timer_close(void *_Nullable timer);
// Nanoseconds from now; 0 disarms. 0 or -errno.
long ckvm_timer_set(void *_Nullable timer, uint64_t nanoseconds);

// --- Host --------------------------------------------------------------------------------------

// The CPUs the calling thread may run on, a bit for each in `count` words.
long ckvm_get_affinity(uint64_t *_Nonnull words, unsigned count);
long ckvm_set_affinity(const uint64_t *_Nonnull words, unsigned count);
// The CPU the calling thread runs on, or -errno.
long ckvm_current_cpu(void);
// Host CPUID of the calling thread's CPU.
void ckvm_host_cpuid(uint32_t function, uint32_t index, uint32_t *_Nonnull four);
uint64_t ckvm_monotonic_nanoseconds(void);
uint64_t ckvm_thread_nanoseconds(void);

static inline uint64_t ckvm_rdtsc(void) { return __builtin_ia32_rdtsc(); }

#endif
