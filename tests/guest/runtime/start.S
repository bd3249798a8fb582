// The way into a payload guest: Linux' 64-bit entry (rsi: the zero page; page tables of the loader, identity, with the
// user bit), some forty instructions in ring 0, then ring 3 for good, with all I/O ports allowed. Ring 3 runs at full
// speed also on a KVM that emulates ring 0, and in/out and MMIO exit from there all the same. No interrupts, no
// exceptions handled: one that happens is a triple fault, which the monitor reports with the registers.
//
// The ports are allowed twice, by the TSS's bitmap and by IOPL 3: a KVM without hardware virtualisation loses IOPL, and
// QEMU 7.2's emulated processor takes no bitmap of a TSS that is marked as busy, as KVM hands one back after a load.

#define CODE64 0x08
#define USER_DATA 0x13
#define USER_CODE 0x1b
#define TSS 0x20
#define RFLAGS_RESERVED 0x2
#define RFLAGS_IOPL3 (3 << 12)

#define CR0_MP (1 << 1)
#define CR0_EM (1 << 2)
#define CR0_TS (1 << 3)
#define CR4_PAE (1 << 5)
#define CR4_OSFXSR (1 << 9)
#define CR4_OSXMMEXCPT (1 << 10)
#define MSR_EFER 0xc0000080
#define EFER_LME (1 << 8)
#define MSR_GS_BASE 0xc0000101
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define KVM_CPUID_FEATURES 0x40000001
#define KVM_FEATURE_CLOCKSOURCE2 (1 << 3)

#define STACK_SHIFT 14
#define CPU_BLOCK_SHIFT 7
#define NO_INDEX 0xff

#define MAX_CPUS 32
// A TSS (Intel SDM volume 3, 8.7) with a bitmap for all ports and the byte of ones after it.
#define TSS_BYTES 104
#define TSS_MAP_BASE_OFFSET 102
#define TSS_LIMIT (TSS_BYTES + 8192)
#define TSS_AVAILABLE 0x89

    .section .text.start, "ax"
    .code64
    .globl _start
_start:
    cli
    cld
    movq %rsi, guest_boot_params
    movq %cr3, %rax
    movq %rax, guest_page_tables
    xorl %edi, %edi

// edi: the vCPU's index
enter:
    lgdt gdt_pointer
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    leal 1(%rdi), %eax
    shll $STACK_SHIFT, %eax
    addl $guest_stacks, %eax
    movq %rax, %rsp

    movq %cr0, %rax
    andl $~(CR0_EM | CR0_TS), %eax
    orl $CR0_MP, %eax
    movq %rax, %cr0
    movq %cr4, %rax
    orl $(CR4_OSFXSR | CR4_OSXMMEXCPT), %eax
    movq %rax, %cr4

    // Loading the task register marks the descriptor as busy, so each vCPU has one of its own for the same TSS.
    movl %edi, %ecx
    shll $4, %ecx
    movl $guest_tss, %eax
    movl %eax, %edx
    shll $16, %edx
    orl $(TSS_LIMIT & 0xffff), %edx
    movl %edx, gdt + TSS(%rcx)
    movl %eax, %edx
    shrl $16, %edx
    andl $0xff, %edx
    andl $0xff000000, %eax
    orl %eax, %edx
    orl $(TSS_AVAILABLE << 8), %edx
    movl %edx, gdt + TSS + 4(%rcx)
    addl $TSS, %ecx
    ltr %cx

    // This vCPU's block of guest::Cpu is where gs points.
    movl %edi, %esi
    shll $CPU_BLOCK_SHIFT, %esi
    addl $guest_cpus, %esi
    movl $MSR_GS_BASE, %ecx
    movl %esi, %eax
    xorl %edx, %edx
    wrmsr

    // KVM's clock goes to the block's start, where there is one.
    movl $(KVM_CPUID_FEATURES - 1), %eax
    cpuid
    cmpl $0x4b4d564b, %ebx       // "KVMK" of "KVMKVMKVM"
    jne 1f
    movl $KVM_CPUID_FEATURES, %eax
    cpuid
    testl $KVM_FEATURE_CLOCKSOURCE2, %eax
    jz 1f
    movl $MSR_KVM_SYSTEM_TIME_NEW, %ecx
    leal 1(%rsi), %eax
    xorl %edx, %edx
    wrmsr
1:
    movq %rsp, %rax
    pushq $USER_DATA
    pushq %rax
    pushq $(RFLAGS_RESERVED | RFLAGS_IOPL3)
    pushq $USER_CODE
    pushq $ring3
    iretq

ring3:
    xorl %ebp, %ebp
    call guest_entry             // edi: the index; does not return
    ud2

// Where a vCPU lands that was woken with INIT and SIPI: copied to a page below 1 MiB, runs there in real mode and goes
// to long mode with the page tables and the GDT that the first vCPU has.
    .globl guest_ap_trampoline
    .globl guest_ap_trampoline_end
    .globl guest_ap_page_tables
guest_ap_trampoline:
    .code16
    cli
    movw %cs, %ax
    movw %ax, %ds
    lgdtl trampoline_gdt_pointer - guest_ap_trampoline
    movl guest_ap_page_tables - guest_ap_trampoline, %eax
    movl %eax, %cr3
    movl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $MSR_EFER, %ecx
    movl $EFER_LME, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010033, %eax       // PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    ljmpl $CODE64, $ap_entry
    .code64
    .balign 4
trampoline_gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
guest_ap_page_tables:
    .long 0
guest_ap_trampoline_end:

// All woken vCPUs come at once; each finds its index by its APIC id. Those that do not take part halt for good.
ap_entry:
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    movzbl guest_index_of_apic_id(%rbx), %edi
    cmpl $NO_INDEX, %edi
    jne enter
1:
    hlt
    jmp 1b

    .section .data.gdt, "aw"
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff     // ring 0 code, 64 bit
    .quad 0x00cff3000000ffff     // ring 3 data
    .quad 0x00affb000000ffff     // ring 3 code, 64 bit
    .fill 2 * MAX_CPUS, 8, 0     // a TSS for each vCPU
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

    .balign 8
guest_tss:
    .fill TSS_MAP_BASE_OFFSET, 1, 0
    .word TSS_BYTES
    .fill 8192, 1, 0
    .byte 0xff
