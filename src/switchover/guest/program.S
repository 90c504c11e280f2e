# The program that the built-in machine runs: x86-64, position independent, no stack.
#
# For ever: it asks the pacer how many pages to dirty before it asks again, adds one to the first
# byte of each of these pages, in order, round and round the region, and, when the pacer says that
# it is time, prints `tick N` on the serial port, N one more than the last. So whoever stops it at
# any time finds all of these bytes equal, but for the pages of the present pass, which are one
# ahead; and the ticks never skip or repeat.
#
# It is stopped only where it asks the pacer, between two whole steps.
#
#   as --64 -o program.o program.S
#   objcopy -O binary -j .text program.o program.bin
#
# Registers, set by the machine before the first instruction and its whole state:
#   rdi  the page that is next        r8   first page of the region
#   rsi  behind the last page         r9   ticks so far

        .intel_syntax noprefix

        .set    PAGE_BYTES,   4096
        .set    PORT_PACER,   0x500             # read: pages to dirty, and whether to tick
        .set    TICK,         0x80000000
        .set    PORT_SERIAL,  0x3f8

        .text
        .globl  _start
_start:
        mov     edx, PORT_PACER
        in      eax, dx
        mov     ecx, eax
        and     ecx, ~TICK
        jz      pages_done
dirty:
        inc     byte ptr [rdi]
        add     rdi, PAGE_BYTES
        cmp     rdi, rsi
        cmovae  rdi, r8
        dec     ecx
        jnz     dirty
pages_done:
        test    eax, TICK
        jz      _start

        inc     r9
        mov     edx, PORT_SERIAL
        # "tick " as one little-endian number, a byte at a time.
        movabs  rbx, 0x206b636974
print_word:
        mov     eax, ebx
        out     dx, al
        shr     rbx, 8
        jnz     print_word

        # The decimal digits, gathered from the last on, so that the first comes out first; eight at most.
        mov     rax, r9
        xor     r10d, r10d
        mov     r11d, 10
divide:
        xor     edx, edx
        div     r11
        shl     r10, 8
        lea     r10, [r10 + rdx + '0']
        test    rax, rax
        jnz     divide
        mov     edx, PORT_SERIAL
print_digits:
        mov     eax, r10d
        out     dx, al
        shr     r10, 8
        jnz     print_digits
        mov     eax, 10
        out     dx, al
        jmp     _start
