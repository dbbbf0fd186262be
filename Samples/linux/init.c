// The first process of the Linux guest: computes in ring 3 until the timer has interrupted it some
// times, sleeps, reads the clock, has a child, and ends the machine. No library, so that nothing but
// the kernel decides what it does.

enum { sys_write = 1, sys_ioctl = 16, sys_nanosleep = 35, sys_fork = 57, sys_exit = 60, sys_wait4 = 61,
       sys_sync = 162, sys_reboot = 169, sys_clock_gettime = 228 };

// TCSBRK, with an argument that is not 0: waits until all output is sent (ioctl_tty(2)).
enum { drain = 0x5409 };

static long call(long number, unsigned long a, unsigned long b, unsigned long c) {
    long result;
    register unsigned long d __asm__("r10") = 0;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(d)
                     : "rcx", "r11", "memory");
    return result;
}

static void print(const char *text) {
    unsigned long length = 0;
    while (text[length]) length++;
    call(sys_write, 1, (unsigned long)text, length);
}

static void print_number(unsigned long number) {
    char digits[24];
    int start = sizeof digits - 1;
    digits[start] = 0;
    do digits[--start] = (char)('0' + number % 10); while (number /= 10);
    print(digits + start);
}

// The kernel aligns the stack as for a called function's caller.
__attribute__((force_align_arg_pointer)) void _start(void) {
    print("init: in ring 3\n");
    unsigned long hash = 1469598103934665603;
    for (unsigned long i = 0; i < 30000000; i++) hash = (hash ^ i) * 1099511628211;
    print("init: hash ");
    print_number(hash);
    print("\n");
    for (int i = 0; i < 3; i++) {
        struct { long seconds, nanoseconds; } pause = {0, 50000000}, now;
        call(sys_nanosleep, (unsigned long)&pause, 0, 0);
        call(sys_clock_gettime, 1, (unsigned long)&now, 0);
        print("init: slept until ");
        print_number((unsigned long)(now.seconds * 1000 + now.nanoseconds / 1000000));
        print(" ms\n");
    }
    long child = call(sys_fork, 0, 0, 0);
    if (child == 0) {
        print("init: the child\n");
        call(sys_exit, 7, 0, 0);
    }
    int status = 0;
    call(sys_wait4, (unsigned long)child, (unsigned long)&status, 0);
    print("init: the child ended with ");
    print_number((unsigned long)(status >> 8 & 255));
    print("\n");
    call(sys_sync, 0, 0, 0);
    // What was printed goes out before the machine ends.
    call(sys_ioctl, 1, drain, 1);
    call(sys_reboot, 0xfee1dead, 672274793, 0x1234567);
    for (;;) {}
}
