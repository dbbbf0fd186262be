# Exception handlers: build the struct exception_frame of processor.h, call exception(), return.
        .text
        .macro  ENTRY name, vector
        .globl  \name
        .type   \name, @function
\name:
        pushq   $\vector
        jmp     exception_common
        .size   \name, . - \name
        .endm

        # Both push an error code.
        ENTRY   general_protection_entry, 13
        ENTRY   page_fault_entry, 14

        .type   exception_common, @function
exception_common:
        .irp    register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
        pushq   %\register
        .endr
        cld
        movq    %rsp, %rdi
        movq    %rsp, %rbp
        andq    $-16, %rsp
        call    exception
        movq    %rbp, %rsp
        .irp    register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
        popq    %\register
        .endr
        addq    $16, %rsp
        iretq
        .size   exception_common, . - exception_common
        .section .note.GNU-stack, "", @progbits
