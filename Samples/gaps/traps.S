# Handlers of #BP and #UD: they count, and keep what was pushed.
        .text
        .globl  breakpoint_entry
        .type   breakpoint_entry, @function
breakpoint_entry:
        pushq   %rax
        movq    8(%rsp), %rax
        movq    %rax, trap_address(%rip)
        movq    24(%rsp), %rax
        movq    %rax, trap_flags(%rip)
        incq    breakpoint_count(%rip)
        popq    %rax
        iretq
        .size   breakpoint_entry, . - breakpoint_entry

        # Returns behind the UD2.
        .globl  invalid_opcode_entry
        .type   invalid_opcode_entry, @function
invalid_opcode_entry:
        pushq   %rax
        movq    8(%rsp), %rax
        movq    %rax, trap_address(%rip)
        addq    $2, 8(%rsp)
        movq    24(%rsp), %rax
        movq    %rax, trap_flags(%rip)
        incq    invalid_opcode_count(%rip)
        popq    %rax
        iretq
        .size   invalid_opcode_entry, . - invalid_opcode_entry

        # int3 and ud2, with the addresses that their handlers must see. RAX: that address.
        .globl  do_int3
        .type   do_int3, @function
do_int3:
        int3
1:      leaq    1b(%rip), %rax
        ret
        .size   do_int3, . - do_int3

        .globl  do_ud2
        .type   do_ud2, @function
do_ud2:
1:      ud2
        leaq    1b(%rip), %rax
        ret
        .size   do_ud2, . - do_ud2

        .section .bss, "aw", @nobits
        .globl  trap_address, trap_flags, breakpoint_count, invalid_opcode_count
        .balign 8
trap_address:
        .skip   8
trap_flags:
        .skip   8
breakpoint_count:
        .skip   8
invalid_opcode_count:
        .skip   8
        .section .note.GNU-stack, "", @progbits
