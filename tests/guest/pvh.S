// A guest with a PVH entry (Xen's pvh.html), and no runtime: it looks at the state that it is entered in, says
// "event=pvh", with the command line behind it, and powers off; or "event=fail" with what is wrong.

#define START_INFO_MAGIC 0x336ec578
#define RSDP_SIGNATURE 0x20445352    // "RSD "
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define CR0_PE 0x00000001
#define CR0_PG 0x80000000

// Offsets in struct hvm_start_info.
#define VERSION 4
#define CMDLINE_PADDR 24
#define RSDP_PADDR 32
#define MEMMAP_ENTRIES 48

#define SERIAL_DATA 0x3f8
#define SLEEP_CONTROL 0x600          // as the FADT says
#define SLEEP_S5 (5 << 2 | 1 << 5)

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_start

    .section .text.start, "ax"
    .code32
pvh_start:
    movl $wrong_magic, %esi
    cmpl $START_INFO_MAGIC, (%ebx)
    jne fail
    movl $wrong_version, %esi
    cmpl $1, VERSION(%ebx)           // the first with a memory map
    jb fail
    movl $wrong_memory_map, %esi
    cmpl $0, MEMMAP_ENTRIES(%ebx)
    je fail
    movl $wrong_rsdp, %esi
    movl RSDP_PADDR(%ebx), %eax
    cmpl $RSDP_SIGNATURE, (%eax)
    jne fail
    movl $wrong_mode, %esi
    movl %cr0, %eax
    andl $(CR0_PE | CR0_PG), %eax
    cmpl $CR0_PE, %eax
    jne fail

    movl $found, %esi
    call print
    movl CMDLINE_PADDR(%ebx), %esi
    call print
    jmp end
fail:
    call print
end:
    movl $newline, %esi
    call print
    movw $SLEEP_CONTROL, %dx
    movb $SLEEP_S5, %al
    outb %al, %dx
1:
    hlt
    jmp 1b

// esi: a string that ends with a zero
print:
    movw $SERIAL_DATA, %dx
1:
    lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:
    ret

// By its 64-bit entry: the wrong one.
    .code64
    .globl _start
_start:
    movl $wrong_entry, %esi
    movw $SERIAL_DATA, %dx
1:
    lodsb
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:
    hlt
    jmp 2b

    .section .rodata, "a"
found:
    .asciz "event=pvh "
wrong_magic:
    .asciz "event=fail what=magic"
wrong_version:
    .asciz "event=fail what=version"
wrong_memory_map:
    .asciz "event=fail what=memory-map"
wrong_rsdp:
    .asciz "event=fail what=rsdp"
wrong_mode:
    .asciz "event=fail what=mode"
wrong_entry:
    .asciz "event=fail what=entry\n"
newline:
    .asciz "\n"
