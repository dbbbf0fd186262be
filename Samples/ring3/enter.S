# enter_ring3(entry, stack): IRETQ to ring 3.
        .globl  enter_ring3
        .text
        .type   enter_ring3, @function
enter_ring3:
        movl    $0x1B, %eax             # USER_DATA
        movl    %eax, %ds
        movl    %eax, %es
        pushq   %rax
        subq    $8, %rsi                # as if it had been called
        pushq   %rsi
        pushq   $0x202                  # interrupts on: there is no source of any
        pushq   $0x23                   # USER_CODE
        pushq   %rdi
        xorl    %ebp, %ebp
        iretq
        .size   enter_ring3, . - enter_ring3

        .section .user_stack, "aw", @nobits
        .globl  user_stack_top
        .balign 16
        .skip   4096
user_stack_top:
        .section .note.GNU-stack, "", @progbits
