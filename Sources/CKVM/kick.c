#define _GNU_SOURCE
#include "ckvm.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum { KICK_SIGNAL = SIGUSR1 };

struct ckvm_kick {
    _Atomic(struct kvm_run *) run;
    atomic_int requested;
    atomic_int thread;
};

struct ckvm_kick *ckvm_kick_open(struct kvm_run *run) {
    struct ckvm_kick *kick = calloc(1, sizeof *kick);
    if (kick) atomic_store(&kick->run, run);
    return kick;
}

void ckvm_kick_close(struct ckvm_kick *kick) { atomic_store(&kick->run, NULL); }

// The calling thread's id, 0 before it was first bound.
static _Thread_local int this_thread;

void ckvm_kick_bind_thread(struct ckvm_kick *kick) {
    if (!this_thread) {
        // Threads of a pool (libdispatch's, on which Swift's tasks run) block every signal, and
        // one that blocks this would never leave KVM_RUN.
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, KICK_SIGNAL);
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        this_thread = (int)syscall(SYS_gettid);
    }
    atomic_store(&kick->thread, this_thread);
}

// Request first, then immediate_exit: whoever clears immediate_exit looks at the request
// afterwards, so that one of the two sees the other. Async-signal-safe.
static void mark(struct ckvm_kick *kick) {
    atomic_store(&kick->requested, 1);
    struct kvm_run *run = atomic_load(&kick->run);
    if (run) ckvm_set_immediate_exit(run, 1);
}

void ckvm_kick_request(struct ckvm_kick *kick) {
    mark(kick);
    // By tgkill and not pthread_kill: of a thread that has ended, it is an error and not
    // undefined. The signal ends a KVM_RUN that had looked at immediate_exit before.
    int thread = atomic_load(&kick->thread);
    if (thread > 0) syscall(SYS_tgkill, getpid(), thread, KICK_SIGNAL);
}

int ckvm_kick_is_requested(const struct ckvm_kick *kick) { return atomic_load(&kick->requested); }

void ckvm_kick_restore(struct ckvm_kick *kick) {
    struct kvm_run *run = atomic_load(&kick->run);
    if (!run) return;
    ckvm_set_immediate_exit(run, 0);
    if (atomic_load(&kick->requested)) ckvm_set_immediate_exit(run, 1);
}

int ckvm_kick_acknowledge(struct ckvm_kick *kick) {
    struct kvm_run *run = atomic_load(&kick->run);
    if (run) ckvm_set_immediate_exit(run, 0);
    return atomic_exchange(&kick->requested, 0);
}

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    if (info->si_code == SI_TIMER && info->si_value.sival_ptr) mark(info->si_value.sival_ptr);
}

static long install_result;

static void install(void) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigemptyset(&action.sa_mask);
    install_result = sigaction(KICK_SIGNAL, &action, NULL) < 0 ? -(long)errno : 0;
}

long ckvm_kick_install(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    return install_result;
}

long ckvm_timer_open(struct ckvm_kick *kick, void **timer) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL};
    event.sigev_value.sival_ptr = kick;
    event.sigev_notify_thread_id = (int)syscall(SYS_gettid);
    timer_t made;
    if (timer_create(CLOCK_MONOTONIC, &event, &made) < 0) return -(long)errno;
    *timer = (void *)made;
    return 0;
}

void ckvm_timer_close(void *timer) { timer_delete((timer_t)timer); }

long ckvm_timer_set(void *timer, uint64_t nanoseconds) {
    struct itimerspec when = {0};
    when.it_value.tv_sec = (time_t)(nanoseconds / 1000000000u);
    when.it_value.tv_nsec = (long)(nanoseconds % 1000000000u);
    return timer_settime((timer_t)timer, 0, &when, NULL) < 0 ? -(long)errno : 0;
}
