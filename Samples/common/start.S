# Entry of every long-mode sample. vmtape enters with paging on, interrupts off, no stack, and
# RDI = address of the NUL-terminated command line (0 if there is none).
# kernel_main's result decides how the guest ends: 0 halts for good, anything else is written to
# the isa-debug-exit port 0xF4 first (process status: value << 1 | 1).
        .globl  _start, halt
        .section .text.start, "ax", @progbits
        .type   _start, @function
_start:
        leaq    stack_top(%rip), %rsp
        xorl    %ebp, %ebp
        cld
        call    kernel_main
        testl   %eax, %eax
        jz      halt
        outb    %al, $0xF4
        .size   _start, . - _start

        .type   halt, @function
halt:
        cli
        hlt
        jmp     halt
        .size   halt, . - halt

        .section .bss.stack, "aw", @nobits
        .balign 16
        .skip   16384
stack_top:
        .section .note.GNU-stack, "", @progbits
