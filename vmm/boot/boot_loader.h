// Puts a kernel, its initrd and all that describes the machine to it into guest memory.
#ifndef FERRITE_VMM_BOOT_BOOT_LOADER_H_
#define FERRITE_VMM_BOOT_BOOT_LOADER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/guest_address.h"
#include "memory/guest_memory.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/boot/boot_entry.h"
#include "vmm/boot/boot_file.h"
#include "vmm/boot/boot_params.h"
#include "vmm/boot/byte_source.h"
#include "vmm/boot/kernel_image.h"

namespace ferrite {

struct BootOptions {
  // A bzImage, or an uncompressed ELF: by its PVH entry when it has one, by its 64-bit entry otherwise.
  const BootFile* kernel = nullptr;
  const BootFile* initrd = nullptr;  // null: none
  std::string command_line;
  AcpiPlatform platform;
};

// What is to be loaded, looked at and found good, with its files open: whatever happens to their names, owners and
// modes, it can still be loaded. Only a file that is cut afterwards, or whose disk fails, cannot.
class PreparedBoot {
 public:
  // Guest memory is not touched, `memory` is only asked for its size. The files of `options` outlive the object.
  static absl::StatusOr<PreparedBoot> Prepare(const GuestMemory& memory, const BootOptions& options);

  // Reads what Load() will read, and keeps nothing of it.
  absl::Status TryToRead() const;

  // Loads all of it into the same memory and says how the first vCPU starts. After an error guest memory may have been
  // written.
  absl::StatusOr<BootEntry> Load(GuestMemory& memory) const;

 private:
  PreparedBoot(const BootOptions& options, std::unique_ptr<ByteSource> kernel, KernelImage image)
      : options_(options), kernel_(std::move(kernel)), image_(std::move(image)) {}
  absl::Status PrepareInitrd(const GuestMemory& memory, GuestAddress kernel_end);
  std::string KernelName() const;
  std::string InitrdName() const;

  BootOptions options_;
  std::unique_ptr<ByteSource> kernel_;
  KernelImage image_;
  std::unique_ptr<ByteSource> initrd_;  // null: none
  InitrdPlace initrd_place_;
  std::vector<uint8_t> acpi_tables_;
};

// Both at once. Files are read straight into guest memory; what a file claims is checked before it is used, and what a
// file has to have in it before anything of it is in memory. Memory that is not written here keeps its contents (a
// machine that resets loads anew over the old guest).
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
