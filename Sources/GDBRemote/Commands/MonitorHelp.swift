/// What `monitor help` says.
enum MonitorHelp {
    static let text = """
        when [exact]                 the position: EXIT+INSTRUCTIONS, and .STEPS in ring 3; deep in
                                     ring 3 that is .?, until exact counts them (^C ends that)
        goto POSITION                move there: EXIT, EXIT+COUNT, EXIT+COUNT.STEPS (in ring 3,
                                     where none are counted), P% of the exits, begin[+COUNT], end
        exits [FIRST[..LAST]]        list exits
        exit N                       all about one exit
        next io [PORT]               forward to just after the next port access
        prev io [PORT]               back likewise
        last-write ADDRESS[,LENGTH]  back to the instruction that last wrote there
        checkpoint                   make coming back here quick
        disassemble [ADDRESS] [N]    instructions, in the mode the CPU is in
        registers                    all registers
        info                         what trace this is
        console on|off               whether what the guest prints on the way is shown
        hints on|off                 whether a move is followed by advice
        Numbers are decimal, or hexadecimal after 0x.

        """

    /// After a move that the debugger did not ask for in its own words.
    static let moved = """
        (The debugger remembers the place before: maintenance flush register-cache, and
        maintenance flush dcache, make it forget.)

        """
}

extension DebugServer {
    /// Commands for gdb that make it notice when a `monitor` command moves the machine; to be
    /// executed once it is connected, a line each, as a script.
    public static let gdbCommands = [
        "define hookpost-monitor",
        // Both say that they did it, each time.
        "pipe maintenance flush register-cache | cat >/dev/null",
        "pipe maintenance flush dcache | cat >/dev/null",
        "end",
        "monitor hints off",
    ]
}
