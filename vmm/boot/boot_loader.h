// Puts a kernel, its initrd and all that describes the machine to it into guest memory.
#ifndef FERRITE_VMM_BOOT_BOOT_LOADER_H_
#define FERRITE_VMM_BOOT_BOOT_LOADER_H_

#include <string>

#include "absl/status/statusor.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/boot_entry.h"
#include "vmm/boot/boot_file.h"
#include "vmm/memory/guest_memory.h"

namespace ferrite {

struct BootOptions {
  // A bzImage, or an uncompressed ELF: by its PVH entry when it has one, by its 64-bit entry otherwise.
  const BootFile* kernel = nullptr;
  const BootFile* initrd = nullptr;  // null: none
  std::string command_line;
  AcpiPlatform platform;
};

// Loads all of it and says how the first vCPU starts. Files are read straight into guest memory; what a file claims
// is checked before it is used, and what a file has to have in it before anything of it is in memory. Memory that is
// not written here keeps its contents (a machine that resets loads anew over the old guest).
//
// Below 1 MiB the loader uses (boot_layout.h): GDT, zero page, hvm_start_info, stack, page tables, command line, ACPI
// tables, and at the reset vector code that resets the machine. A kernel never loads there. In long mode the page
// tables map the first 4 GiB onto themselves, writable and for user mode too, so that a payload may go to ring 3
// without tables of its own.
//
// Errors: one line that names the file, what is wrong with it and what to do: NOT_FOUND or PERMISSION_DENIED from
// open(2), INVALID_ARGUMENT for what is not a kernel for this machine, RESOURCE_EXHAUSTED for what does not fit,
// FAILED_PRECONDITION for other content than the file has to have. Guest memory may have been written.
absl::StatusOr<BootEntry> LoadKernel(GuestMemory& memory, const BootOptions& options);

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_BOOT_LOADER_H_
