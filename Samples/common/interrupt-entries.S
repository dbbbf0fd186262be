# Handlers of the sixteen interrupt lines: save what a C function may change, tell
# interrupt_arrived() the line, return.
        .text
        .macro  ENTRY line
        .type   line_\line\()_entry, @function
line_\line\()_entry:
        pushq   $\line
        jmp     interrupt_common
        .size   line_\line\()_entry, . - line_\line\()_entry
        .endm

        .irp    line, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        ENTRY   \line
        .endr

        .type   interrupt_common, @function
interrupt_common:
        .irp    register, rax, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11
        pushq   %\register
        .endr
        cld
        movq    80(%rsp), %rdi
        movq    %rsp, %rbp
        andq    $-16, %rsp
        call    interrupt_arrived
        movq    %rbp, %rsp
        .irp    register, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rax
        popq    %\register
        .endr
        addq    $8, %rsp
        iretq
        .size   interrupt_common, . - interrupt_common

        .section .rodata.interrupt_entries, "a", @progbits
        .globl  interrupt_entries
        .type   interrupt_entries, @object
        .balign 8
interrupt_entries:
        .irp    line, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        .quad   line_\line\()_entry
        .endr
        .size   interrupt_entries, . - interrupt_entries
        .section .note.GNU-stack, "", @progbits
