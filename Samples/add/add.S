# The classic first KVM guest: 16-bit real mode, flat, loaded and entered at 0x1000.
# Adds two numbers, prints the sum as a digit and a newline on port 0x3F8, halts. 3 exits.
        .code16
        .globl  _start, print_digit
        .text
        .type   _start, @function
_start:
        movw    $2, %ax
        movw    $2, %bx
        addw    %bx, %ax
        call    print_digit
        hlt
        .size   _start, . - _start

        .type   print_digit, @function
print_digit:
        movw    $0x3F8, %dx
        addb    $'0', %al
        outb    %al, %dx
        movb    $'\n', %al
        outb    %al, %dx
        ret
        .size   print_digit, . - print_digit
