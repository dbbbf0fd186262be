// Symbols of assembly language: some with a size and a type, some with neither, some local.
    .section .text.entry, "ax", @progbits
    .globl _start
    .globl start_alias
_start:
start_alias:
    cli
    cld
entry_local:
    call kmain
unsized_tail:
    hlt
    jmp unsized_tail
    .skip 7, 0x90
    .globl halt
    .type halt, @function
halt:
    hlt
inner_label:
    jmp halt
    .size halt, . - halt
after_halt:
    nop
    nop
    .globl sized_outer
    .type sized_outer, @function
sized_outer:
    nop
    .type sized_inner, @function
sized_inner:
    nop
    nop
    .size sized_inner, . - sized_inner
    nop
    nop
    nop
    .size sized_outer, . - sized_outer
    .skip 16, 0xcc
    .globl absolute_number
    .set absolute_number, 0x1234
