# The boot-sector guest: 512 bytes that a PC firmware loads at 0x7c00 and jumps to.
#
# It first clears the first byte of each page of the region. Then, for ever: it adds one to the
# first byte of each page, in order, and when it has done the last page it prints one letter on the
# first serial port, A to Z and round again. So whoever stops it anywhere finds all bytes equal, but
# for the pages of the present pass, which are one ahead; and the letters never skip or repeat.
#
# A short empty loop and a write to port 0x80, which nothing listens to, pace each page: under an
# emulated CPU a pass takes about ten milliseconds, as with a guest that has more to do than to
# dirty memory. The port write is also where an emulator may stop between two whole steps.
#
#   as --32 -o bootsector.o bootsector.S
#   ld -m elf_i386 -Ttext=0x7c00 -o bootsector.elf bootsector.o
#   objcopy -O binary -j .text bootsector.elf bootsector.bin

        .intel_syntax noprefix

        .set    REGION_START, 0x00100000        # the same in guest.py
        .set    REGION_END,   0x01100000
        .set    PAGE_BYTES,   4096

        .set    PACE_LOOPS,   1000
        .set    PORT_PACE,    0x80              # the firmware's progress codes go here
        .set    PORT_A20,     0x92
        .set    COM1_DATA,    0x3f8
        .set    COM1_STATUS,  0x3fd
        .set    COM1_EMPTY,   0x20              # in the status: a byte may be written

        .set    CODE,         0x08              # selectors, by their place in the table
        .set    DATA,         0x10

        .text
        .globl  _start
        .code16
_start:
        cli
        cld
        xor     ax, ax
        mov     ds, ax

        # Address line 20 on, or every odd megabyte is the even one below it. Bit 0 would reset.
        in      al, PORT_A20
        or      al, 2
        and     al, 0xfe
        out     PORT_A20, al

        lgdt    [gdt_pointer]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        .att_syntax
        ljmp    $CODE, $protected
        .intel_syntax noprefix

        .code32
protected:
        mov     ax, DATA
        mov     ds, ax
        mov     es, ax
        mov     fs, ax
        mov     gs, ax
        mov     ss, ax
        mov     esp, offset _start

        mov     edi, REGION_START
clear:
        mov     byte ptr [edi], 0
        add     edi, PAGE_BYTES
        cmp     edi, REGION_END
        jb      clear

        mov     bl, 'A'
pass:
        mov     edi, REGION_START
page:
        inc     byte ptr [edi]
        out     PORT_PACE, al
        mov     ecx, PACE_LOOPS
pace:
        dec     ecx
        jnz     pace
        add     edi, PAGE_BYTES
        cmp     edi, REGION_END
        jb      page

        mov     dx, COM1_STATUS
busy:
        in      al, dx
        test    al, COM1_EMPTY
        jz      busy
        mov     dx, COM1_DATA
        mov     al, bl
        out     dx, al

        inc     bl
        cmp     bl, 'Z'
        jbe     pass
        mov     bl, 'A'
        jmp     pass

        # Null, then code and data: both from 0, 4 GiB long, 32 bits, and marked as accessed so
        # that loading a selector does not write to this table.
        .balign 8
gdt:
        .quad   0x0000000000000000
        .quad   0x00cf9b000000ffff
        .quad   0x00cf93000000ffff
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

        # What tells the firmware that this sector can be started.
        .org    510
        .byte   0x55, 0xaa
