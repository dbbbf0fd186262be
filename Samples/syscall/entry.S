# Where SYSCALL from ring 3 arrives: RCX = return address, R11 = flags, RAX = what is asked for,
# RDI = its argument. The result goes back in RAX by SYSRETQ.
        .globl  syscall_entry
        .text
        .type   syscall_entry, @function
syscall_entry:
        movq    %rsp, user_stack_pointer(%rip)
        leaq    syscall_stack_top(%rip), %rsp
        pushq   %rcx
        pushq   %r11
        movq    %rdi, %rsi
        movq    %rax, %rdi
        cld
        call    system_call
        popq    %r11
        popq    %rcx
        movq    user_stack_pointer(%rip), %rsp
        sysretq
        .size   syscall_entry, . - syscall_entry

        .section .bss.syscall, "aw", @nobits
        .balign 16
        .skip   4096
syscall_stack_top:
user_stack_pointer:
        .skip   8
        .section .note.GNU-stack, "", @progbits
