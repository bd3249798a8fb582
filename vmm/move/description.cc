#include "vmm/move/description.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/byte_size.h"
#include "base/clean_text.h"
#include "base/pinned_file.h"
#include "base/status.h"
#include "devices/block/disk_image.h"
#include "memory/guest_memory.h"
#include "memory/memory_limits.h"
#include "vmm/boot/boot_file.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/machine/described_cpuid.h"
#include "vmm/machine/device_kinds.h"
#include "vmm/machine/machine_check.h"
#include "vmm/machine/state_version.h"
#include "vmm/move/boot_files.h"

namespace ferrite {
namespace {

constexpr size_t kMaxText = 4096;
// Of every machine.
constexpr absl::string_view kPcDevices[] = {"serial0", "power"};

using Tell = absl::FunctionRef<void(absl::string_view)>;

// One that stands in errors and logs: it is clean.
absl::StatusOr<std::string> TextOf(capnp::Text::Reader in, absl::string_view what) {
  const absl::string_view text(in.begin(), in.size());
  if (text.size() > kMaxText) {
    return absl::InvalidArgumentError(
        absl::StrCat("the machine's ", what, " is no text of at most ", kMaxText, " bytes"));
  }
  if (!IsClean(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the machine's ", what, " has characters that cannot be shown: '", CleanText(text), "'"));
  }
  return std::string(text);
}

absl::Status CheckCpuid(state::MachineDescription::Reader described, const HostLimits& host) {
  return CheckCpuidFits(
      ReadCpuid(described),
      GuestCpuid(host.cpuid, {.index = 0, .count = described.getCpus(), .tsc_deadline = host.tsc_deadline}));
}

absl::Status ReadMemory(state::Memory::Reader memory, MachineConfig& config) {
  FERRITE_ASSIGN_OR_RETURN(const std::string backing, TextOf(memory.getBacking(), "memory backing"));
  FERRITE_ASSIGN_OR_RETURN(config.memory_backing, ParseMemoryBacking(backing));
  config.memory_bytes = memory.getBytes();
  config.transparent_huge_pages = memory.getTransparentHugePages();
  return absl::OkStatus();
}

// What is told of the devices beside their names.
absl::StatusOr<DeviceDetails> ReadDetails(state::MachineDescription::Reader described) {
  DeviceDetails details;
  for (const state::Disk::Reader disk : described.getDisks()) {
    FERRITE_ASSIGN_OR_RETURN(std::string id, TextOf(disk.getId(), "disk id"));
    FERRITE_ASSIGN_OR_RETURN(std::string path, TextOf(disk.getPath(), "disk path"));
    details.disks.push_back(
        {.id = std::move(id), .path = std::move(path), .bytes = disk.getBytes(), .read_only = disk.getReadOnly()});
  }
  return details;
}

// The devices in their order, without a look at this host's files.
absl::Status ReadDevices(state::MachineDescription::Reader described, const DeviceDetails& details,
                         MachineConfig& config) {
  absl::flat_hash_set<std::string> names;
  for (const state::DeviceSummary::Reader device : described.getDevices()) {
    FERRITE_ASSIGN_OR_RETURN(const std::string name, TextOf(device.getName(), "device name"));
    if (!names.insert(name).second) {
      return absl::InvalidArgumentError(absl::StrCat("the machine has the device ", name, " twice"));
    }
    if (std::find(std::begin(kPcDevices), std::end(kPcDevices), name) != std::end(kPcDevices)) {
      continue;
    }
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(name, absl::MaxSplits(':', 1));
    const DeviceKind* kind = FindKind(parts.first);
    if (kind == nullptr || (kind->most == 1 && parts.first != name)) {
      return absl::FailedPreconditionError(absl::StrCat("this ferrite does not know the device ", name));
    }
    FERRITE_ASSIGN_OR_RETURN(DeviceConfig accepted, kind->accept(parts.second, details));
    config.devices.push_back(std::move(accepted));
  }
  for (const absl::string_view name : kPcDevices) {
    if (!names.contains(name)) {
      return absl::FailedPreconditionError(
          absl::StrCat("the machine lacks the device ", name, ", which it would have here"));
    }
  }
  for (const DeviceDetails::Disk& disk : details.disks) {
    if (!names.contains(absl::StrCat("virtio-blk:", disk.id))) {
      return absl::InvalidArgumentError(absl::StrCat("the disk ", disk.id, " has no device"));
    }
  }
  if (details.disks.size() != config.all<DiskConfig>().size()) {
    return absl::InvalidArgumentError("the machine describes a disk twice");
  }
  return absl::OkStatus();
}

// Whether the memory lies where GuestMemory puts it here.
absl::Status CheckMemory(std::span<const migration::MachineSpec::Region> theirs, const MachineConfig& config) {
  const std::vector<MemoryPlace> ours = MemoryLayout(config.memory_bytes);
  if (theirs.size() != ours.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the machine has ", theirs.size(), " memory regions, here it would have ", ours.size()));
  }
  for (size_t i = 0; i < theirs.size(); ++i) {
    if (theirs[i].base != ours[i].base.value() || theirs[i].bytes != ours[i].bytes) {
      return absl::FailedPreconditionError(absl::StrCat("memory region ", ours[i].name, " has ", theirs[i].bytes,
                                                        " bytes at ", theirs[i].base, " at the source, but ",
                                                        ours[i].bytes, " at ", ours[i].base.value(), " here"));
    }
  }
  return absl::OkStatus();
}

// The ids of disks that the source would copy.
using OfferedDisks = absl::flat_hash_set<std::string>;

// Memory comes first, and is checked.
absl::StatusOr<OfferedDisks> SplitRegions(std::span<const migration::MachineSpec::Region> theirs,
                                          const MachineConfig& config) {
  const auto disks = std::find_if(theirs.begin(), theirs.end(), [](const migration::MachineSpec::Region& region) {
    return region.kind == migration::RegionKind::kDisk;
  });
  FERRITE_RETURN_IF_ERROR(CheckMemory({theirs.begin(), disks}, config));
  OfferedDisks offered;
  for (const migration::MachineSpec::Region& region : std::span(disks, theirs.end())) {
    const auto of_region = [&region](const DiskConfig* disk) { return disk->id == region.name; };
    const auto known = config.all<DiskConfig>();
    if (region.kind != migration::RegionKind::kDisk || std::none_of(known.begin(), known.end(), of_region) ||
        !offered.insert(region.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("the machine comes with the region ", CleanText(region.name), ", which is none of its disks"));
    }
  }
  return offered;
}

// Whether a lock on the file shows here whoever holds it: no other host can reach it but through this one's kernel. A
// block device may be shared, and of a file system that is not known nothing is said.
bool LocksShow(const PinnedFile& file) {
  struct stat info = {};
  struct statfs system = {};
  if (fstat(file.fd(), &info) != 0 || !S_ISREG(info.st_mode) || fstatfs(file.fd(), &system) != 0) {
    return false;
  }
  switch (static_cast<uint64_t>(system.f_type)) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case TMPFS_MAGIC:
      return true;
    default:
      return false;
  }
}

// Where the disk comes to be that is copied here. Errors are for this host's user.
absl::Status PlaceCopy(const DeviceDetails::Disk& disk, const AllowedFiles::CopyPlace& place, uint64_t most_bytes,
                       OpenCopy open_copy, DiskConfig& config) {
  if (disk.bytes > most_bytes) {
    return absl::FailedPreconditionError(absl::StrCat("it has ", FormatByteSize(disk.bytes),
                                                      " to copy, `ferrite receive --max-disk` allows ",
                                                      FormatByteSize(most_bytes)));
  }
  if (disk.bytes == 0 || disk.bytes % kSectorBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a disk has no ", disk.bytes, " bytes"));
  }
  FERRITE_ASSIGN_OR_RETURN(config.file, open_copy(config.id, disk.bytes, place));
  config.path = config.file->path();
  config.sectors = disk.bytes / kSectorBytes;
  return absl::OkStatus();
}

// The image for the disk of `config`, which both sides reach. Errors are for this host's user.
absl::Status FindImage(const DeviceDetails::Disk& disk, const ArrivalOptions& options, const AllowedFiles& files,
                       DiskConfig& config) {
  config.file = files.Disk(config.id);
  const bool is_mapped = config.file != nullptr;
  if (!is_mapped) {
    auto file = config.path.empty()
                    ? absl::NotFoundError("the source's image was removed where it was, and has no name any more")
                    : files.FindDisk(config.path);
    if (!file.ok()) {
      return absl::Status(
          file.status().code(),
          absl::StrCat(file.status().message(), "; `ferrite receive --disk ", config.id,
                       "=PATH` names the image, `--disk-from DIR` allows all that are in use below DIR"));
    }
    config.file = std::make_shared<const PinnedFile>(*std::move(file));
  }
  config.path = config.file->path();
  FERRITE_ASSIGN_OR_RETURN(const DiskImage::Look image, DiskImage::LookAt(*config.file, config.read_only));
  if (image.sectors * kSectorBytes != disk.bytes) {
    return absl::FailedPreconditionError(absl::StrCat("it has ", disk.bytes, " bytes at the source, but ", config.path,
                                                      " has ", image.sectors * kSectorBytes,
                                                      " here: it is not the same disk"));
  }
  if (!is_mapped && !image.in_use) {
    return absl::FailedPreconditionError(absl::StrCat(
        config.path,
        " is not open here as the source's disk would be, so that it is not taken on the source's word; if it is the "
        "machine's disk, `ferrite receive --disk ",
        config.id, "=PATH`"));
  }
  // Copies of what is only read are as good.
  if (is_mapped && !image.in_use && !config.read_only && !options.trust_disks && LocksShow(*config.file)) {
    return absl::FailedPreconditionError(
        absl::StrCat(config.path,
                     " is on a file system of this host alone, and nobody has it open: it is not the disk that the "
                     "source writes to, or that reaches it in a way which does not show here; if it is that disk, "
                     "`ferrite receive --trust-disks`"));
  }
  config.sectors = image.sectors;
  return absl::OkStatus();
}

absl::Status FindImages(const DeviceDetails& details, const ArrivalOptions& options, const AllowedFiles& files,
                        const OfferedDisks& offered, Tell tell, OpenCopy open_copy, MachineConfig& config) {
  const auto find = [&](const DeviceDetails::Disk& described, DiskConfig& disk) -> absl::Status {
    const std::optional<AllowedFiles::CopyPlace> place = files.Copy(disk.id);
    if (place.has_value() && offered.contains(disk.id)) {
      return PlaceCopy(described, *place, options.limits.disk_bytes, open_copy, disk);
    }
    if (place.has_value() && place->is_named) {
      return absl::FailedPreconditionError(
          absl::StrCat("it is not copied, to ", place->path,
                       " as --disk-copy says: the source moves it as a disk that both sides reach (`ferrite move "
                       "--disks shared`, or a ferrite that copies none)"));
    }
    return FindImage(described, options, files, disk);
  };
  absl::flat_hash_set<std::string> ids;
  for (DiskConfig* disk : config.all<DiskConfig>()) {
    ids.insert(disk->id);
    const auto described = std::find_if(details.disks.begin(), details.disks.end(),
                                        [disk](const DeviceDetails::Disk& other) { return other.id == disk->id; });
    FERRITE_CHECK(described != details.disks.end());
    if (const absl::Status status = find(*described, *disk); !status.ok()) {
      tell(absl::StrCat("disk ", disk->id, ": ", status.message()));
      return absl::FailedPreconditionError(
          absl::StrCat("disk ", disk->id,
                       ": its image cannot be used here, and the log of the destination says why; `ferrite receive "
                       "--disk ",
                       disk->id, "=PATH` names it there, `--disk-copy ", disk->id,
                       "=PATH` has it copied, `--disk-from DIR` allows the source's path"));
    }
  }
  for (const auto& [id, copy] : options.disk_copies) {
    if (!ids.contains(id)) {
      tell(absl::StrCat("the machine has no disk with the id ", id, ", for which --disk-copy names ", copy.path));
      return absl::FailedPreconditionError(
          absl::StrCat("the machine has no disk with the id ", id, ", for which --disk-copy names a path"));
    }
  }
  for (const auto& [id, path] : options.disk_paths) {
    if (!ids.contains(id)) {
      tell(absl::StrCat("the machine has no disk with the id ", id, ", for which --disk names ", path));
      return absl::FailedPreconditionError(
          absl::StrCat("the machine has no disk with the id ", id, ", for which --disk names a path"));
    }
  }
  return absl::OkStatus();
}

// A kernel or an initrd that the source names. Errors are for this host's user.
absl::StatusOr<std::shared_ptr<const BootFile>> FindBootFile(absl::string_view what, const AllowedFiles& files,
                                                             BootFileDigests& digests, std::string& path,
                                                             state::BootFile::Reader described, uint64_t room) {
  if (path.empty()) {
    return nullptr;
  }
  auto file = files.FindBootFile(path);
  FERRITE_RETURN_IF_ERROR(Annotate(file.status(), what));
  path = file->path();
  return CheckBootFile(what, *std::move(file), described, room, digests);
}

absl::Status ReadBoot(state::Boot::Reader boot, const AllowedFiles& files, BootFileDigests& digests, Tell tell,
                      MachineConfig& config) {
  if (files.kernel() != nullptr) {
    config.kernel = files.kernel();
    config.kernel_path = config.kernel->file.path();
    config.initrd = files.initrd();
    config.initrd_path = config.initrd != nullptr ? config.initrd->file.path() : "";
    return absl::OkStatus();
  }
  if (!config.reboot_on_reset || boot.getKernelPath().size() == 0) {
    return absl::OkStatus();
  }
  FERRITE_ASSIGN_OR_RETURN(config.kernel_path, TextOf(boot.getKernelPath(), "kernel path"));
  FERRITE_ASSIGN_OR_RETURN(config.initrd_path, TextOf(boot.getInitrdPath(), "initrd path"));
  constexpr absl::string_view kRemedy =
      "; a reset would boot it: name what is to be booted with `ferrite receive --kernel FILE [--initrd FILE]`, allow "
      "the same files as the source's with `--boot-from DIR`, or `ferrite run` the machine with --no-reboot";
  // What the source says of its own files it may hear again.
  absl::Status status = CheckDescribed("kernel", boot.getKernel());
  if (status.ok() && !config.initrd_path.empty()) {
    status = CheckDescribed("initrd", boot.getInitrd());
  }
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(status.message(), kRemedy));
  }
  const uint64_t room = config.memory_bytes;
  auto kernel = FindBootFile("kernel", files, digests, config.kernel_path, boot.getKernel(), room);
  auto initrd = kernel.ok() ? FindBootFile("initrd", files, digests, config.initrd_path, boot.getInitrd(), room)
                            : kernel.status();
  if (!initrd.ok()) {
    tell(absl::StrCat(initrd.status().message(), kRemedy));
    return absl::FailedPreconditionError(
        absl::StrCat("its kernel and initrd cannot be used here, and the log of the destination says why", kRemedy));
  }
  config.kernel = *std::move(kernel);
  config.initrd = *std::move(initrd);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MachineConfig> ConfigOf(state::MachineDescription::Reader described,
                                       std::span<const migration::MachineSpec::Region> regions,
                                       const ArrivalOptions& options, const AllowedFiles& files,
                                       BootFileDigests& digests, const HostLimits& host,
                                       absl::FunctionRef<void(absl::string_view)> tell, OpenCopy open_copy) {
  FERRITE_RETURN_IF_ERROR(CheckLimits(described, options.limits));
  MachineConfig config;
  config.name = options.name;
  config.cpus = described.getCpus();
  config.dirty_ring = options.dirty_ring;
  config.reboot_on_reset = described.getRebootOnReset();
  const capnp::Text::Reader command_line = described.getBoot().getCommandLine();
  // The kernel's, as it is: whoever shows it cleans it.
  config.command_line.assign(command_line.begin(), command_line.size());
  FERRITE_RETURN_IF_ERROR(ReadMemory(described.getMemory(), config));
  FERRITE_ASSIGN_OR_RETURN(const DeviceDetails details, ReadDetails(described));
  FERRITE_RETURN_IF_ERROR(ReadDevices(described, details, config));
  config.disks_elsewhere = true;
  FERRITE_RETURN_IF_ERROR(CheckMachineConfig(config, DescribedBy::kPeer));
  FERRITE_RETURN_IF_ERROR(CheckHostHas(config, host, DescribedBy::kPeer));
  FERRITE_RETURN_IF_ERROR(CheckMemoryGroups(config.memory_bytes, config.memory_backing, host.memory.swap_bytes));
  FERRITE_RETURN_IF_ERROR(CheckCpuid(described, host));
  FERRITE_ASSIGN_OR_RETURN(const OfferedDisks offered, SplitRegions(regions, config));
  FERRITE_RETURN_IF_ERROR(ReadBoot(described.getBoot(), files, digests, tell, config));
  FERRITE_RETURN_IF_ERROR(FindImages(details, options, files, offered, tell, open_copy, config));
  return config;
}

absl::Status CheckSameMachine(state::MachineDescription::Reader there, state::MachineDescription::Reader here) {
  if (there.getStateVersion() > kMachineStateVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the machine's state has version ", there.getStateVersion(),
                                                      ", this ferrite reads at most ", kMachineStateVersion));
  }
  absl::flat_hash_map<std::string, uint32_t> devices;
  for (const state::DeviceSummary::Reader device : here.getDevices()) {
    devices.emplace(device.getName().cStr(), device.getVersion());
  }
  for (const state::DeviceSummary::Reader device : there.getDevices()) {
    const auto ours = devices.find(device.getName().cStr());
    if (ours == devices.end()) {
      return absl::FailedPreconditionError(absl::StrCat("the machine has the device ", device.getName().cStr(),
                                                        " twice, or this ferrite does not have it"));
    }
    if (device.getVersion() > ours->second) {
      return absl::FailedPreconditionError(absl::StrCat("the device ", ours->first, " has state version ",
                                                        device.getVersion(), ", this ferrite reads at most ",
                                                        ours->second));
    }
    devices.erase(ours);
  }
  if (!devices.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the machine lacks the device ", devices.begin()->first, ", which it would have here"));
  }
  return absl::OkStatus();
}

}  // namespace ferrite
