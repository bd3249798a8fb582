// A guest that handles machine checks, and no runtime: it says "event=ready", waits for a byte on the serial port, loads
// from PAGE in ring 3, says "event=went-on", and waits again. Its machine-check handler says "event=check" with what the
// registers hold, and has the load skipped. The command line's first letter says what else it does:
//   n  does not turn machine checks on
//   l  returns from the handler to the load, for ever
//   0  loads in ring 0
#define PAGE 0x1000000               // 16 MiB

#define CODE64 0x08
#define USER_DATA 0x13
#define USER_CODE 0x1b
#define TSS 0x20
#define TSS_BYTES 104
#define RSP0_OFFSET 4
#define MAP_BASE_OFFSET 102
#define MACHINE_CHECK 18
#define CR4_MCE (1 << 6)
#define COMMAND_LINE 0x228           // in the zero page
#define MCG_STATUS 0x17a
#define MC9_STATUS 0x425
#define MC9_ADDR 0x426
#define SERIAL_DATA 0x3f8
#define SERIAL_STATUS 0x3fd
#define STACK 0x180000

    .section .text.start, "ax"
    .code64
    .globl _start
_start:
    cli
    cld
    movl COMMAND_LINE(%rsi), %eax
    movzbl (%rax), %r15d
    movl $STACK, %esp
    lgdt gdt_pointer
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es

    movl $tss, %eax
    movl %eax, %edx
    shll $16, %edx
    orl $(TSS_BYTES + 8192), %edx
    movl %edx, gdt + TSS
    movl %eax, %edx
    shrl $16, %edx
    andl $0xff, %edx
    andl $0xff000000, %eax
    orl %eax, %edx
    orl $0x8900, %edx
    movl %edx, gdt + TSS + 4
    movl $TSS, %eax
    ltr %ax

    movl $on_check, %eax
    movl %eax, %edx
    andl $0xffff, %eax
    orl $(CODE64 << 16), %eax
    movl %eax, idt + 16 * MACHINE_CHECK
    andl $0xffff0000, %edx
    orl $0x8e00, %edx
    movl %edx, idt + 16 * MACHINE_CHECK + 4
    lidt idt_pointer
    cmpb $'n', %r15b
    je 1f
    movq %cr4, %rax
    orl $CR4_MCE, %eax
    movq %rax, %cr4
1:
    cmpb $'0', %r15b
    je guest
    pushq $USER_DATA
    pushq $(STACK - 0x4000)
    pushq $0x3002                    // IOPL 3
    pushq $USER_CODE
    pushq $guest
    iretq

guest:
    movl $ready, %esi
    call print
1:
    movw $SERIAL_STATUS, %dx
    inb %dx, %al
    testb $1, %al
    jz 1b
    movw $SERIAL_DATA, %dx
    inb %dx, %al
    movl $PAGE, %edi
    movq (%rdi), %rax
after:
    movl $went_on, %esi
    call print
    jmp 1b

on_check:
    cmpb $'l', %r15b
    je 1f
    movl $check, %esi
    call print
    movl $MCG_STATUS, %ecx
    call print_register
    movl $status, %esi
    call print
    movl $MC9_STATUS, %ecx
    call print_register
    movl $address, %esi
    call print
    movl $MC9_ADDR, %ecx
    call print_register
    movl $newline, %esi
    call print
    movq $after, (%rsp)
1:
    xorl %eax, %eax
    xorl %edx, %edx
    movl $MC9_STATUS, %ecx
    wrmsr
    movl $MCG_STATUS, %ecx
    wrmsr
    iretq

// ecx: a register, shown in hex
print_register:
    rdmsr
    shlq $32, %rdx
    movl %eax, %eax
    orq %rdx, %rax
    movq %rax, %rbx
    movl $16, %ecx
    movw $SERIAL_DATA, %dx
1:
    rolq $4, %rbx
    movl %ebx, %eax
    andl $15, %eax
    movb digits(%rax), %al
    outb %al, %dx
    decl %ecx
    jnz 1b
    ret

// esi: a string that ends with a zero
print:
    movw $SERIAL_DATA, %dx
1:
    movb (%rsi), %al
    incl %esi
    testb %al, %al
    jz 2f
    outb %al, %dx
    jmp 1b
2:
    ret

    .section .rodata, "a"
digits:
    .ascii "0123456789abcdef"
ready:
    .asciz "event=ready\n"
went_on:
    .asciz "event=went-on\n"
check:
    .asciz "event=check mcg=0x"
status:
    .asciz " status=0x"
address:
    .asciz " address=0x"
newline:
    .asciz "\n"

    .section .data, "aw"
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff         // ring 0 code, 64 bit
    .quad 0x00cff3000000ffff         // ring 3 data
    .quad 0x00affb000000ffff         // ring 3 code, 64 bit
    .quad 0, 0                       // the TSS
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
    .balign 16
idt:
    .fill 2 * (MACHINE_CHECK + 1), 8, 0
idt_end:
idt_pointer:
    .word idt_end - idt - 1
    .quad idt
    .balign 8
tss:
    .fill RSP0_OFFSET, 1, 0
    .quad STACK
    .fill MAP_BASE_OFFSET - RSP0_OFFSET - 8, 1, 0
    .word TSS_BYTES
    .fill 8192, 1, 0
    .byte 0xff
