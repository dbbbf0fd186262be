internal import Glibc

/// The program that long output is read in on a terminal.
struct Pager {
    /// Where to write.
    let descriptor: Int32
    private let process: pid_t

    /// Starts $VMTAPE_PAGER, $PAGER or less; nil where there is no terminal, none is wanted, or
    /// none can be started: then the output goes to the terminal itself.
    static func start(_ terminal: Terminal) -> Pager? {
        guard terminal.isTerminal else { return nil }
        let command =
            Terminal.environment("VMTAPE_PAGER") ?? Terminal.environment("PAGER") ?? "less"
        guard !command.isEmpty, command != "cat" else { return nil }
        // As git does: quit if it fits one screen, show colours, leave the screen as it is.
        // SAFETY: both are string literals; nothing else touches the environment now.
        if Terminal.environment("LESS") == nil { _ = unsafe setenv("LESS", "FRX", 1) }
        var ends: [Int32] = [-1, -1]
        // SAFETY: pipe fills two descriptors, and the array has two.
        guard unsafe pipe(&ends) == 0 else { return nil }
        _ = fcntl(ends[1], F_SETFD, FD_CLOEXEC)
        var actions = unsafe posix_spawn_file_actions_t()
        var attributes = posix_spawnattr_t()
        var none = sigset_t()
        var process = pid_t()
        // SAFETY: actions and attributes are initialised before use and destroyed after; the
        // argument strings are duplicated for the call and freed after it.
        unsafe posix_spawn_file_actions_init(&actions)
        unsafe posix_spawn_file_actions_adddup2(&actions, ends[0], STDIN_FILENO)
        unsafe posix_spawn_file_actions_addclose(&actions, ends[0])
        unsafe posix_spawnattr_init(&attributes)
        // The pager takes Ctrl-C itself; our mask would make it deaf.
        unsafe sigemptyset(&none)
        unsafe posix_spawnattr_setsigmask(&attributes, &none)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var arguments: [UnsafeMutablePointer<CChar>?] = unsafe [
            strdup("/bin/sh"), strdup("-c"), strdup(command), nil,
        ]
        let status = unsafe posix_spawn(
            &process, "/bin/sh", &actions, &attributes, &arguments, environ)
        for index in unsafe arguments.indices { unsafe free(arguments[index]) }
        unsafe posix_spawn_file_actions_destroy(&actions)
        unsafe posix_spawnattr_destroy(&attributes)
        close(ends[0])
        guard status == 0 else {
            close(ends[1])
            return nil
        }
        signal(SIGPIPE, SIG_IGN)
        return Pager(descriptor: ends[1], process: process)
    }

    /// Waits until the reader has read.
    func finish() {
        close(descriptor)
        var status: Int32 = 0
        // SAFETY: waitpid fills the status it is given.
        while unsafe waitpid(process, &status, 0) < 0, errno == EINTR {}
    }
}
