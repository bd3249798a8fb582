// Guest addresses that qemu_boot.S and qemu_boot.cc agree on: all below the payload guest, which begins at 2 MiB.
#ifndef FERRITE_BENCH_QEMU_BOOT_LAYOUT_H_
#define FERRITE_BENCH_QEMU_BOOT_LAYOUT_H_

#define QEMU_BOOT_BASE 0x10000
#define QEMU_BOOT_PAGE_TABLES 0x11000  // identity, 4 GiB by pages of 2 MiB: six pages
#define QEMU_BOOT_ZERO_PAGE 0x17000
#define QEMU_BOOT_COMMAND_LINE 0x18000  // up to a page
#define QEMU_BOOT_ENTRY 0x200000        // tests/guest/guest.ld puts _start at the image's first byte

#endif  // FERRITE_BENCH_QEMU_BOOT_LAYOUT_H_
