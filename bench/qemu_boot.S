// What takes a processor of QEMU's from its reset to a payload guest (tests/guest), as data for qemu_boot.cc: a firmware
// of a few instructions, and a second part in RAM. QEMU's own firmwares are ring-0 code in ROM, which takes minutes on a
// KVM without hardware virtualisation; this is left for RAM at once, and for 64-bit mode after it.

#include "bench/qemu_boot_layout.h"

#define CODE32 0x08
#define DATA32 0x10
#define CODE64 0x18

#define CR0_PE 1
#define CR0_PG (1 << 31)
#define CR4_PAE (1 << 5)
#define MSR_EFER 0xc0000080
#define EFER_LME (1 << 8)

// Where a label of the part in RAM is when the guest runs.
#define IN_RAM(label) ((label) - qemu_boot_ram + QEMU_BOOT_BASE)

    .section .rodata, "a"

// The last bytes below 4 GiB; the processor begins 16 bytes before their end, in real mode, and reaches all of the ROM
// by its code segment.
    .globl qemu_boot_rom
    .globl qemu_boot_rom_end
    .balign 16
    .code16
qemu_boot_rom:
0:
    cli
    lgdtl %cs:(0x10000 - (qemu_boot_rom_end - 1f))
    movl $CR0_PE, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $QEMU_BOOT_BASE
    .balign 4
1:
    .word gdt_end - gdt - 1
    .long IN_RAM(gdt)
    .balign 16
    jmp 0b
    .balign 16
qemu_boot_rom_end:

    .globl qemu_boot_ram
    .globl qemu_boot_ram_end
    .balign 16
    .code32
qemu_boot_ram:
    movl $DATA32, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $QEMU_BOOT_PAGE_TABLES, %eax
    movl %eax, %cr3
    movl $MSR_EFER, %ecx
    movl $EFER_LME, %eax
    xorl %edx, %edx
    wrmsr
    movl $(CR0_PG | CR0_PE), %eax
    movl %eax, %cr0
    ljmpl $CODE64, $IN_RAM(1f)
    .code64
1:
    // Linux' 64-bit entry: rsi has the zero page.
    movl $QEMU_BOOT_ZERO_PAGE, %esi
    movl $QEMU_BOOT_ENTRY, %eax
    jmpq *%rax
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
gdt_end:
qemu_boot_ram_end:

    .section .note.GNU-stack, "", @progbits
