#include "vmm/boot/boot_loader.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status.h"
#include "vmm/boot/boot_layout.h"
#include "vmm/boot/boot_params.h"
#include "vmm/boot/byte_source.h"
#include "vmm/boot/cpu_setup.h"
#include "vmm/boot/kernel_image.h"

namespace ferrite {
namespace {

std::string MiB(uint64_t bytes) { return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20)); }

// `status`, whose message is a predicate ("is empty"), as a sentence about `name`.
absl::Status AboutFile(const absl::Status& status, const std::string& name) {
  return absl::Status(status.code(), absl::StrCat(name, " ", status.message()));
}

// Where low RAM ends: everything that is loaded lies below.
GuestAddress LowRamEnd(const GuestMemory& memory) {
  const MemoryRegion* region = memory.Find(GuestAddress(0));
  return region == nullptr ? GuestAddress(0) : region->end();
}

absl::Status ReadIntoGuest(GuestMemory& memory, const ByteSource& file, uint64_t offset, uint64_t bytes,
                           GuestAddress address) {
  return memory.WriteInPlace(address, bytes, [&](std::span<uint8_t> to) { return file.Read(offset, to); });
}

// The end of the kernel in memory, if that has room for it.
absl::StatusOr<GuestAddress> CheckSegments(const GuestMemory& memory, const KernelImage& image) {
  GuestAddress end;
  for (const KernelSegment& segment : image.segments) {
    end = std::max(end, segment.address + segment.memory_bytes);
  }
  if (const GuestAddress low_ram_end = LowRamEnd(memory); end > low_ram_end) {
    return absl::ResourceExhaustedError(
        absl::StrCat("does not fit: it takes memory up to ", MiB(end.value()), ", the machine has ",
                     low_ram_end == kMmioHoleStart ? "low memory up to " : "", MiB(low_ram_end.value())));
  }
  return end;
}

absl::Status LoadSegments(GuestMemory& memory, const KernelImage& image, const ByteSource& file) {
  for (const KernelSegment& segment : image.segments) {
    if (segment.file_bytes > 0) {
      FERRITE_RETURN_IF_ERROR(ReadIntoGuest(memory, file, segment.file_offset, segment.file_bytes, segment.address));
    }
    if (segment.zero_bytes > 0) {
      FERRITE_RETURN_IF_ERROR(memory.Fill(segment.address + segment.file_bytes, 0, segment.zero_bytes));
    }
  }
  return absl::OkStatus();
}

absl::Status TryToReadPart(const ByteSource& file, uint64_t offset, uint64_t bytes) {
  std::vector<uint8_t> piece(std::min<uint64_t>(bytes, 256 << 10));
  while (bytes > 0) {
    const uint64_t length = std::min<uint64_t>(bytes, piece.size());
    FERRITE_RETURN_IF_ERROR(file.Read(offset, std::span(piece).first(length)));
    offset += length;
    bytes -= length;
  }
  return absl::OkStatus();
}

// `file` of `boot`, or where it has to have some content a copy that has it: nobody changes that between the look and
// the use, and the guest's memory, which a move may be sending, gets nothing else.
absl::StatusOr<std::unique_ptr<ByteSource>> WithItsContent(const BootFile& boot, std::unique_ptr<FileSource> file,
                                                           const std::string& name) {
  if (!boot.content.has_value()) {
    return file;
  }
  if (file->size() == boot.content->bytes) {
    auto copy = CopySource::Read(*file);
    if (!copy.ok()) {
      return AboutFile(copy.status(), name);
    }
    if (Sha256Of((*copy)->bytes()) == boot.content->sha256) {
      return *std::move(copy);
    }
  }
  return absl::FailedPreconditionError(
      absl::StrCat(name, " has other content now than when the machine came here with it, so that it is not booted"));
}

// The initrd lies as high as it may be, so that the kernel has the room below it for itself.
absl::StatusOr<InitrdPlace> PlaceOfInitrd(const GuestMemory& memory, uint64_t bytes, const std::string& name,
                                          GuestAddress kernel_end, GuestAddress limit) {
  limit = std::min(limit, LowRamEnd(memory));
  const uint64_t room = limit > kernel_end ? limit - kernel_end : 0;
  const uint64_t start = limit.value() >= bytes ? (limit.value() - bytes) & ~(kPageBytes - 1) : 0;
  if (start < kernel_end.value()) {
    const bool more_would_help = limit == LowRamEnd(memory) && limit < kMmioHoleStart;
    return absl::ResourceExhaustedError(absl::StrCat(
        name, " does not fit: it has ", MiB(bytes),
        ", between the kernel and the highest address that it may have there are ", MiB(room),
        more_would_help ? "; give the machine more memory" : ", whatever memory the machine has; use a smaller one"));
  }
  return InitrdPlace{.address = GuestAddress(start), .bytes = bytes};
}

absl::Status CheckCommandLine(const std::string& command_line, uint64_t max_bytes) {
  max_bytes = std::min(max_bytes, kCommandLineRoomBytes - 1);
  if (command_line.size() > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("kernel command line is too long: ", command_line.size(),
                                                   " bytes, this kernel takes ", max_bytes));
  }
  if (command_line.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("kernel command line has a zero byte in it");
  }
  return absl::OkStatus();
}

absl::Status WriteCommandLine(GuestMemory& memory, const std::string& command_line) {
  return memory.Write(kCommandLineAddress,
                      {reinterpret_cast<const uint8_t*>(command_line.c_str()), command_line.size() + 1});
}

// Linux prefers EFI to the reset register of a hardware-reduced machine, and when it has no EFI it enters the
// firmware's reset vector in real mode. That is where this writes the reset register, so that `reboot` works without
// advice on the command line.
absl::Status WriteResetVector(GuestMemory& memory, const AcpiPlatform& platform) {
  const auto port = static_cast<uint8_t>(platform.reset_port);
  const auto port_high = static_cast<uint8_t>(platform.reset_port >> 8);
  // mov dx, port; mov al, value; out dx, al; hlt, for ever
  const std::array<uint8_t, 9> code = {0xba, port, port_high, 0xb0, platform.reset_value, 0xee, 0xf4, 0xeb, 0xfd};
  return memory.WriteObject(kResetVectorAddress, code);
}

}  // namespace

std::string PreparedBoot::KernelName() const { return absl::StrCat("kernel ", options_.kernel->file.path()); }
std::string PreparedBoot::InitrdName() const { return absl::StrCat("initrd ", options_.initrd->file.path()); }

absl::StatusOr<PreparedBoot> PreparedBoot::Prepare(const GuestMemory& memory, const BootOptions& options) {
  if (LowRamEnd(memory) <= kKernelMin) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a kernel needs more than 1 MiB of memory, the machine has ", MiB(LowRamEnd(memory).value())));
  }
  const std::string kernel_name = absl::StrCat("kernel ", options.kernel->file.path());
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<FileSource> opened, FileSource::Open("kernel", options.kernel->file));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> file,
                           WithItsContent(*options.kernel, std::move(opened), kernel_name));
  auto image = ParseKernelImage(*file);
  if (!image.ok()) {
    return AboutFile(image.status(), kernel_name);
  }
  if (!image->passed_over.empty()) {
    Log().warn("{} {}; it starts at its {} all the same", kernel_name, image->passed_over,
               std::string(BootProtocolName(image->protocol)));
  }
  const auto kernel_end = CheckSegments(memory, *image);
  if (!kernel_end.ok()) {
    return AboutFile(kernel_end.status(), kernel_name);
  }
  PreparedBoot boot(options, std::move(file), *std::move(image));
  if (options.initrd != nullptr) {
    FERRITE_RETURN_IF_ERROR(boot.PrepareInitrd(memory, *kernel_end));
  }
  FERRITE_RETURN_IF_ERROR(CheckCommandLine(options.command_line, boot.image_.max_command_line_bytes));
  FERRITE_ASSIGN_OR_RETURN(boot.acpi_tables_, BuildAcpiTables(options.platform));
  return boot;
}

absl::Status PreparedBoot::PrepareInitrd(const GuestMemory& memory, GuestAddress kernel_end) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<FileSource> file, FileSource::Open("initrd", options_.initrd->file));
  FERRITE_ASSIGN_OR_RETURN(initrd_place_,
                           PlaceOfInitrd(memory, file->size(), InitrdName(), kernel_end, image_.initrd_limit));
  FERRITE_ASSIGN_OR_RETURN(initrd_, WithItsContent(*options_.initrd, std::move(file), InitrdName()));
  return absl::OkStatus();
}

absl::Status PreparedBoot::TryToRead() const {
  for (const KernelSegment& segment : image_.segments) {
    if (const absl::Status status = TryToReadPart(*kernel_, segment.file_offset, segment.file_bytes); !status.ok()) {
      return AboutFile(status, KernelName());
    }
  }
  if (initrd_ != nullptr) {
    if (const absl::Status status = TryToReadPart(*initrd_, 0, initrd_place_.bytes); !status.ok()) {
      return AboutFile(status, InitrdName());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<BootEntry> PreparedBoot::Load(GuestMemory& memory) const {
  if (const absl::Status status = LoadSegments(memory, image_, *kernel_); !status.ok()) {
    return AboutFile(status, KernelName());
  }
  BootContents contents{.memory_map = BuildMemoryMap(memory), .setup_header = image_.setup_header};
  if (initrd_ != nullptr) {
    if (const absl::Status status = ReadIntoGuest(memory, *initrd_, 0, initrd_place_.bytes, initrd_place_.address);
        !status.ok()) {
      return AboutFile(status, InitrdName());
    }
    contents.initrd = initrd_place_;
  }
  FERRITE_RETURN_IF_ERROR(WriteCommandLine(memory, options_.command_line));
  FERRITE_RETURN_IF_ERROR(memory.Write(kAcpiTablesStart, acpi_tables_));
  FERRITE_RETURN_IF_ERROR(WriteResetVector(memory, options_.platform));

  BootEntry entry{.protocol = image_.protocol, .rip = image_.entry};
  if (image_.protocol == BootProtocol::kPvh) {
    FERRITE_RETURN_IF_ERROR(WriteStartInfo(memory, contents));
    FERRITE_RETURN_IF_ERROR(SetUpProtectedMode(memory, entry));
    entry.rbx = kStartInfoAddress.value();
  } else {
    FERRITE_RETURN_IF_ERROR(WriteZeroPage(memory, contents));
    FERRITE_RETURN_IF_ERROR(SetUpLongMode(memory, entry));
    entry.rsi = kZeroPageAddress.value();
  }
  Log().debug("{}: {} at {:#x}, {} segments", KernelName(), std::string(BootProtocolName(entry.protocol)), entry.rip,
              image_.segments.size());
  return entry;
}

absl::StatusOr<BootEntry> LoadKernel(GuestMemory& memory, const BootOptions& options) {
  FERRITE_ASSIGN_OR_RETURN(const PreparedBoot boot, PreparedBoot::Prepare(memory, options));
  return boot.Load(memory);
}

}  // namespace ferrite
