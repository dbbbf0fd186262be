extension Filter {
    /// The manual of the filter language, as the command line prints it: no line is longer than
    /// the 80 columns that help is wrapped to.
    public static let help = #"""
        A filter is a condition on one exit:

            reason == io and port == 0x3f8 and dir == out
            symbol ~ "panic" or rax > 0x1000 and cpl == 3
            exit in 100..200 and not changed(rbx)
            port in {0x60, 0x64, 0x3f8..0x3ff} and data == "A"

        Comparisons are == != < <= > >=, `in A..B`, `in {A, B..C}`, and `~` for a
        regular expression. They are joined by `and`, `or`, `not` and round brackets;
        `not` binds tighter than `and`, `and` tighter than `or`. Numbers are decimal,
        0x… or 0b…, with a unit where wanted (ns us ms s, k m g), and may be joined
        by & + - before they are compared: `rflags & 0x200 != 0`. Strings stand in
        double quotes ("A\n"), bytes in hexadecimal after an x (x"41 0a"). A comparison
        with what an exit does not have, as the port of a HLT, is false, != too.

        exit                number of the exit, from 0
        reason              io, mmio, hlt, shutdown, rdmsr, … as KVM names them
        port, address       of the access; an address is guest-physical
        dir (direction)     in or out, also called read and write
        size, count         bytes of an access, and how many accesses (string I/O)
        data, length        bytes sent or read: a string, x"…", or a number
        msr                 number of the register of a RDMSR or WRMSR
        vcpu, cpl           numbers
        mode                real, protected16, protected32, compatibility, long
        rip, pc             the instruction that caused the exit: offset in CS, linear
        rax … r15, rflags   registers, and their parts: eax, ax, al, ah, r8d, …
        cr0 … cr8, efer     control registers; also apic_base, gdt, idt, gdt.limit, …
        cs … ldt            selectors; also cs.base, cs.limit, fs.base, …
        changed(REGISTER)   whether the register differs from the exit before
        symbol, file, line  where the instruction is, where that is known
        event               answer, completion, interruption, device_write or end:
                            what happened between this exit and the next
        vector (irq)        vector of the first interruption after this exit
        time                since the start of the recording, in ns (or 5ms, 2s)
        guest_ns, vmm_ns    in the guest before the exit, and outside after it
        """#
}
