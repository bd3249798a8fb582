// A guest that handles machine checks, and no runtime: it says "event=ready", waits for a byte on the serial port, loads
// from PAGE in ring 3, says "event=went-on", and waits again. Its machine-check handler says "event=check" with what the
// registers hold, and has the load skipped. The command line's first letter says what else it does:
//   n  does not turn machine checks on
//   l  returns from the handler to the load, for ever
//   0  loads in ring 0
//   h  loads from PAGE + INSIDE, which is in the same huge page
//   o  has the load done by an outs, which KVM emulates
//   2  has a second vCPU load at the same time, and instead of all that says "event=both", with the number of machine checks
//      that each vCPU had so far
//   i  loads with interrupts enabled, as a process does
#define PAGE 0x1000000               // 16 MiB
#define INSIDE 0x5000

#define CODE64 0x08
#define USER_DATA 0x13
#define USER_CODE 0x1b
#define TSS 0x20
#define TSS_BYTES 104
#define TSS_SHIFT 14                 // from one vCPU's TSS to the next
#define STACK_SHIFT 15
#define TRAMPOLINE 0x8f000           // below 1 MiB, and left free by the loader
#define APIC_ICR 0xfee00300
#define ICR_INIT 0xc4500             // to all but the sender
#define ICR_STARTUP 0xc4600
#define CR4_PAE (1 << 5)
#define MSR_EFER 0xc0000080
#define EFER_LME (1 << 8)
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
#define STACK 0x180000               // the first vCPU's

    .section .text.start, "ax"
    .code64
    .globl _start
_start:
    cli
    cld
    movl COMMAND_LINE(%rsi), %eax
    movzbl (%rax), %r15d
    movq %cr3, %rax
    movl %eax, trampoline_tables
    xorl %r14d, %r14d

// r14d: the vCPU's index; r15b: the mode
enter:
    movl %r14d, %eax
    shll $STACK_SHIFT, %eax
    movl $STACK, %esp
    subl %eax, %esp
    lgdt gdt_pointer
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es

    movl %r14d, %ebx
    shll $4, %ebx                    // its TSS's place in the GDT
    movl %r14d, %eax
    shll $TSS_SHIFT, %eax
    addl $tss, %eax
    movq %rsp, RSP0_OFFSET(%rax)
    movl %eax, %edx
    shll $16, %edx
    orl $(TSS_BYTES + 8192), %edx
    movl %edx, gdt + TSS(%rbx)
    movl %eax, %edx
    shrl $16, %edx
    andl $0xff, %edx
    andl $0xff000000, %eax
    orl %eax, %edx
    orl $0x8900, %edx
    movl %edx, gdt + TSS + 4(%rbx)
    leal TSS(%rbx), %eax
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
    movl %esp, %eax
    subl $0x4000, %eax
    pushq $USER_DATA
    pushq %rax
    movl $0x3002, %eax               // IOPL 3
    movl $0x3202, %edx               // and IF
    cmpb $'i', %r15b
    cmovel %edx, %eax
    pushq %rax
    pushq $USER_CODE
    pushq $guest
    iretq

guest:
    testl %r14d, %r14d
    jnz second
    cmpb $'2', %r15b
    jne 1f
    movl $trampoline, %esi
    movl $TRAMPOLINE, %edi
    movl $(trampoline_end - trampoline), %ecx
    rep movsb
    movl $APIC_ICR, %edi
    movl $ICR_INIT, (%rdi)
    movl $(ICR_STARTUP | TRAMPOLINE >> 12), (%rdi)
1:
    cmpl $0, second_is_there
    jne 1f
    cmpb $'2', %r15b
    je 1b
1:
    movl $ready, %esi
    call print
1:
    movw $SERIAL_STATUS, %dx
    inb %dx, %al
    testb $1, %al
    jz 1b
    movw $SERIAL_DATA, %dx
    inb %dx, %al
    cmpb $'2', %r15b
    je 2f
    call touch
    movl $went_on, %esi
    call print
    jmp 1b
2:
    incl turn
    call touch
3:
    pause
    movl done, %eax
    cmpl turn, %eax
    jne 3b
    movl $both, %esi
    call print
    movl checks, %ebx
    call print_number
    movl $second_text, %esi
    call print
    movl checks + 4, %ebx
    call print_number
    movl $newline, %esi
    call print
    jmp 1b

second:
    movl $1, second_is_there
1:
    pause
    movl turn, %ebp
    cmpl %ebp, done
    je 1b
    call touch
    movl %ebp, done
    jmp 1b

touch:
    movl $PAGE, %esi
    cmpb $'h', %r15b
    jne 1f
    addl $INSIDE, %esi
1:
    cmpb $'o', %r15b
    je 1f
    movq (%rsi), %rax
    ret
1:
    movw $SERIAL_DATA, %dx
    outsb
after:
    ret

on_check:
    cmpb $'l', %r15b
    je 2f
    cmpb $'2', %r15b
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
1:
    incl checks(, %r14, 4)
    movq $after, (%rsp)
2:
    xorl %eax, %eax
    xorl %edx, %edx
    movl $MC9_STATUS, %ecx
    wrmsr
    movl $MCG_STATUS, %ecx
    wrmsr
    iretq

// The second vCPU's way from real mode, with the page tables of the first one's loader (below 4 GiB).
trampoline:
    .code16
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt - trampoline
    movl trampoline_tables - trampoline, %eax
    movl %eax, %cr3
    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $MSR_EFER, %ecx
    movl $EFER_LME, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010033, %eax           // PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    ljmpl $CODE64, $second_entry
    .code64
    .balign 4
trampoline_gdt:
    .word gdt_end - gdt - 1
    .long gdt
trampoline_tables:
    .long 0
trampoline_end:

second_entry:
    movl $1, %r14d
    movl $'2', %r15d
    jmp enter

// ecx: a register, shown in hex
print_register:
    rdmsr
    shlq $32, %rdx
    movl %eax, %eax
    orq %rdx, %rax
    movq %rax, %rbx
// rbx: a number, likewise
print_number:
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
both:
    .asciz "event=both first=0x"
second_text:
    .asciz " second=0x"
newline:
    .asciz "\n"

    .section .data, "aw"
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff         // ring 0 code, 64 bit
    .quad 0x00cff3000000ffff         // ring 3 data
    .quad 0x00affb000000ffff         // ring 3 code, 64 bit
    .quad 0, 0, 0, 0                 // each vCPU's TSS
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
turn:
    .long 0
done:
    .long 0
checks:
    .long 0, 0
second_is_there:
    .long 0
    .balign 1 << TSS_SHIFT
tss:
    .rept 2
    .fill MAP_BASE_OFFSET, 1, 0
    .word TSS_BYTES
    .fill 8192, 1, 0
    .byte 0xff
    .balign 1 << TSS_SHIFT
    .endr
