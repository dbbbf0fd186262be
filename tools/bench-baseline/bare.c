// The bare C loop that tools/bench compares vmtape with: loads a guest as vmtape does, runs it,
// answers its devices, reads no register and records nothing.
//
//     bare [-i INPUT] [-q] [-s BITS] IMAGE [COMMAND-LINE]
//
// -s: what KVM copies to the run page at every exit (KVM_SYNC_X86_*: 1 registers, 2 system registers,
// 4 events; else nothing): what a loop that reads them pays before it does anything with them.
// IMAGE: an ELF64 kernel, or a flat real-mode binary (loaded and entered at 0x1000). The guest's
// console goes to stdout (not with -q). The last line, on stderr: how the run ended, exits,
// nanoseconds, and those of them on the CPU. Status: 0 halted, the guest's own after isa-debug-exit, 1 crashed, 2 could not.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    RAM_BYTES = 64 << 20,
    FLAT_ADDRESS = 0x1000,
    COMMAND_LINE_ADDRESS = 0x9000,
    PAGE_TABLES_ADDRESS = 0x10000,   // PML4, the low PDPT, its four PDs, the high PDPT
    UART = 0x3F8,
    DEBUG_CONSOLE = 0xE9,
    DEBUG_EXIT = 0xF4,
};

static uint8_t *ram;
static const uint8_t *input;
static size_t input_left;
static bool quiet;
static int guest_status = -1;

static _Noreturn void fail(const char *what, const char *detail) {
    fprintf(stderr, "bare: %s: %s\n", what, detail);
    exit(2);
}

static int control(int file, unsigned long request, void *argument, const char *name) {
    int result = ioctl(file, request, argument);
    if (result < 0) fail(name, strerror(errno));
    return result;
}

static uint8_t *read_file(const char *path, size_t *length) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (file < 0 || fstat(file, &facts) < 0) fail(path, strerror(errno));
    *length = (size_t)facts.st_size;
    uint8_t *bytes = malloc(*length + 1);
    if (!bytes || read(file, bytes, *length) != facts.st_size) fail(path, "unreadable");
    close(file);
    return bytes;
}

// Puts the segments at their physical addresses; the result is the entry point.
static uint64_t load_elf(const uint8_t *image, size_t length) {
    Elf64_Ehdr header;
    if (length < sizeof header) fail("image", "truncated ELF header");
    memcpy(&header, image, sizeof header);
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
        fail("image", "not an x86-64 ELF64");
    for (unsigned index = 0; index < header.e_phnum; ++index) {
        Elf64_Phdr segment;
        uint64_t at = header.e_phoff + index * sizeof segment;
        if (at > length || length - at < sizeof segment) fail("image", "truncated segment table");
        memcpy(&segment, image + at, sizeof segment);
        if (segment.p_type != PT_LOAD) continue;
        if (segment.p_offset > length || segment.p_filesz > length - segment.p_offset
            || segment.p_paddr > RAM_BYTES || segment.p_memsz > RAM_BYTES - segment.p_paddr
            || segment.p_filesz > segment.p_memsz)
            fail("image", "segment beyond the file or RAM");
        memcpy(ram + segment.p_paddr, image + segment.p_offset, segment.p_filesz);
    }
    return header.e_entry;
}

// The low 4 GiB at their own addresses and RAM again 2 GiB below the top, all in 2 MiB pages.
static void build_page_tables(void) {
    enum { PRESENT_WRITABLE = 3, LARGE = 0x80 };
    uint64_t *table = (uint64_t *)(void *)(ram + PAGE_TABLES_ADDRESS);
    uint64_t address = PAGE_TABLES_ADDRESS | PRESENT_WRITABLE;
    table[0] = address + 0x1000;
    table[511] = address + 0x6000;
    for (uint64_t index = 0; index < 4; ++index) table[512 + index] = address + 0x2000 + (index << 12);
    for (uint64_t index = 0; index < 2048; ++index)
        table[1024 + index] = (index << 21) | LARGE | PRESENT_WRITABLE;
    table[6 * 512 + 510] = address + 0x2000;
}

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool code) {
    return (struct kvm_segment){
        .limit = 0xFFFFFFFF, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1,
        .l = code, .db = !code};
}

static void enter_long_mode(struct kvm_sregs *system) {
    build_page_tables();
    system->cs = flat_segment(0x10, 11, true);
    system->ds = system->es = system->fs = system->gs = system->ss = flat_segment(0x18, 3, false);
    system->cr3 = PAGE_TABLES_ADDRESS;
    system->cr4 = 0x20;            // PAE
    system->cr0 = 0x80010033;      // PG WP NE ET MP PE
    system->efer = 0x500;          // LMA LME
}

static uint64_t answer_port(uint16_t port) {
    if (port == UART + 5) return 0x60 | (input_left != 0);
    if (port == UART && input_left) return --input_left, *input++;
    return ~0ull;
}

static void take_port(uint16_t port, uint32_t value) {
    if ((port == UART || port == DEBUG_CONSOLE) && !quiet) putchar((int)(value & 0xFF));
    if (port == DEBUG_EXIT) guest_status = (int)((value << 1 | 1) & 0xFF);
}

static void serve_port(struct kvm_run *run) {
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    for (uint32_t index = 0; index < run->io.count; ++index, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_IN) {
            uint64_t value = answer_port(run->io.port);
            memcpy(data, &value, run->io.size);
        } else {
            uint32_t value = 0;
            memcpy(&value, data, run->io.size);
            take_port(run->io.port, value);
        }
    }
}

static const char *stopped(const struct kvm_run *run) {
    static char text[128];
    switch (run->exit_reason) {
    case KVM_EXIT_HLT: return "halted";
    case KVM_EXIT_SHUTDOWN: return "triple fault";
    case KVM_EXIT_INTERNAL_ERROR: {
        const uint8_t *bytes = run->emulation_failure.insn_bytes;
        snprintf(text, sizeof text,
            "internal error %u, instruction bytes %02x %02x %02x %02x %02x %02x", run->internal.suberror,
            bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]);
        return text;
    }
    default: snprintf(text, sizeof text, "exit reason %u", run->exit_reason); return text;
    }
}

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

// The loop that is measured. The result says why it ended.
static const char *drive(int cpu, struct kvm_run *run, uint64_t *exits) {
    for (;;) {
        if (ioctl(cpu, KVM_RUN, 0) < 0) {
            if (errno == EINTR) continue;
            fail("KVM_RUN", strerror(errno));
        }
        ++*exits;
        switch (run->exit_reason) {
        case KVM_EXIT_IO:
            serve_port(run);
            if (guest_status >= 0) return "debug exit";
            break;
        case KVM_EXIT_MMIO:
            if (!run->mmio.is_write) memset(run->mmio.data, 0xFF, sizeof run->mmio.data);
            break;
        default: return stopped(run);
        }
    }
}

int main(int count, char **arguments) {
    int option;
    uint64_t synchronised = 0;
    while ((option = getopt(count, arguments, "i:qs:")) != -1) {
        if (option == 'i') input = read_file(optarg, &input_left);
        else if (option == 's') synchronised = strtoull(optarg, NULL, 0);
        else if (option == 'q') quiet = true;
        else return 64;
    }
    if (optind >= count) fail("usage", "bare [-i INPUT] [-q] [-s BITS] IMAGE [COMMAND-LINE]");

    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) fail("/dev/kvm", strerror(errno));
    int machine = control(kvm, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
    ram = mmap(0, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ram == MAP_FAILED) fail("RAM", strerror(errno));
    struct kvm_userspace_memory_region region = {
        .memory_size = RAM_BYTES, .userspace_addr = (uint64_t)(uintptr_t)ram};
    control(machine, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
    struct kvm_enable_cap failure = {.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = {1}};
    ioctl(machine, KVM_ENABLE_CAP, &failure);   // where the host has it: it shows the bytes

    int cpu = control(machine, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU");
    size_t page_bytes = (size_t)control(kvm, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(0, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0);
    if (run == MAP_FAILED) fail("run page", strerror(errno));
    struct kvm_cpuid2 *features = calloc(1, sizeof *features + 256 * sizeof features->entries[0]);
    if (!features) fail("CPUID", "no memory");
    features->nent = 256;
    control(kvm, KVM_GET_SUPPORTED_CPUID, features, "KVM_GET_SUPPORTED_CPUID");
    control(cpu, KVM_SET_CPUID2, features, "KVM_SET_CPUID2");

    size_t length;
    const uint8_t *image = read_file(arguments[optind], &length);
    struct kvm_sregs system;
    struct kvm_regs registers = {.rflags = 2};
    control(cpu, KVM_GET_SREGS, &system, "KVM_GET_SREGS");
    if (length >= SELFMAG && !memcmp(image, ELFMAG, SELFMAG)) {
        registers.rip = load_elf(image, length);
        enter_long_mode(&system);
        if (optind + 1 < count) {
            snprintf((char *)ram + COMMAND_LINE_ADDRESS, 4096, "%s", arguments[optind + 1]);
            registers.rdi = COMMAND_LINE_ADDRESS;
        }
    } else {
        if (length > RAM_BYTES - FLAT_ADDRESS) fail("image", "larger than RAM");
        memcpy(ram + FLAT_ADDRESS, image, length);
        system.cs.base = system.cs.selector = 0;
        registers.rip = FLAT_ADDRESS;
    }
    control(cpu, KVM_SET_SREGS, &system, "KVM_SET_SREGS");
    control(cpu, KVM_SET_REGS, &registers, "KVM_SET_REGS");

    run->kvm_valid_regs = synchronised;
    uint64_t exits = 0, used = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    uint64_t start = nanoseconds(CLOCK_MONOTONIC);
    const char *end = drive(cpu, run, &exits);
    uint64_t elapsed = nanoseconds(CLOCK_MONOTONIC) - start;
    used = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - used;
    fflush(stdout);
    fprintf(stderr, "bare: %s, exits %llu, nanoseconds %llu, of the CPU %llu\n", end,
        (unsigned long long)exits, (unsigned long long)elapsed, (unsigned long long)used);
    if (guest_status >= 0) return guest_status;
    return run->exit_reason == KVM_EXIT_HLT ? 0 : 1;
}
