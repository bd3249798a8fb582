#include "vmm/move/description.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "devices/block/disk_image.h"
#include "vmm/base/status.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/kvm_abi.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/memory_limits.h"
#include "vmm/move/boot_files.h"

namespace ferrite {
namespace {

constexpr uint32_t kMaxCpus = 32;
constexpr uint32_t kMaxCpuidLeaves = 256;
constexpr size_t kMaxText = 4096;
constexpr size_t kMaxDiskId = 20;
constexpr absl::string_view kDiskPrefix = "virtio-blk:";

absl::StatusOr<std::string> TextOf(capnp::Text::Reader text, absl::string_view what) {
  if (text.size() > kMaxText || absl::string_view(text.begin(), text.size()).find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the machine's ", what, " is no text of at most ", kMaxText, " bytes"));
  }
  return std::string(text.begin(), text.size());
}

absl::Status CheckCpus(state::MachineDescription::Reader described, const Kvm& kvm) {
  const uint32_t most =
      std::min<uint32_t>(kMaxCpus, static_cast<uint32_t>(kvm.capabilities().value(KVM_CAP_MAX_VCPUS)));
  if (described.getCpus() < 1 || described.getCpus() > most) {
    return absl::FailedPreconditionError(
        absl::StrCat("the machine has ", described.getCpus(), " vCPUs, this host allows 1 to ", most));
  }
  if (described.getCpuid().size() > kMaxCpuidLeaves) {
    return absl::InvalidArgumentError(absl::StrCat("the machine has ", described.getCpuid().size(), " CPUID leaves"));
  }
  std::vector<kvm_cpuid_entry2> guest;
  for (const state::CpuidLeaf::Reader leaf : described.getCpuid()) {
    kvm_cpuid_entry2 entry = {};
    entry.function = leaf.getFunction();
    entry.index = leaf.getIndex();
    entry.flags = leaf.getFlags();
    entry.eax = leaf.getEax();
    entry.ebx = leaf.getEbx();
    entry.ecx = leaf.getEcx();
    entry.edx = leaf.getEdx();
    guest.push_back(entry);
  }
  return CheckCpuidFits(
      guest, GuestCpuid(kvm.supported_cpuid(), {.index = 0,
                                                .count = described.getCpus(),
                                                .tsc_deadline = kvm.capabilities().has(KVM_CAP_TSC_DEADLINE_TIMER)}));
}

absl::Status ReadMemory(state::Memory::Reader memory, MachineConfig& config) {
  FERRITE_ASSIGN_OR_RETURN(const std::string backing, TextOf(memory.getBacking(), "memory backing"));
  FERRITE_ASSIGN_OR_RETURN(config.memory_backing, ParseMemoryBacking(backing));
  config.memory_bytes = memory.getBytes();
  config.transparent_huge_pages = memory.getTransparentHugePages();
  if (config.memory_bytes == 0 || config.memory_bytes > kMaxGuestMemoryBytes ||
      config.memory_bytes % HostPageBytes(config.memory_backing) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a machine cannot have ", config.memory_bytes,
                                                   " bytes of memory in ", MemoryBackingName(config.memory_backing)));
  }
  struct sysinfo info = {};
  if (sysinfo(&info) != 0) {
    return ErrnoStatus("read the host's memory size");
  }
  const uint64_t host = (info.totalram + info.totalswap) * info.mem_unit;
  if (config.memory_bytes > host) {
    return absl::ResourceExhaustedError(absl::StrCat("the machine has ", config.memory_bytes >> 20,
                                                     " MiB of memory, more than this host's ", host >> 20, " MiB"));
  }
  return CheckMemoryGroups(config.memory_bytes, config.memory_backing, info.totalswap * info.mem_unit);
}

// Whether a lock on the file shows here whoever holds it: no other host can reach it but through this one's kernel. A
// block device may be shared, and of a file system that is not known nothing is said.
bool LocksShow(const std::string& path) {
  struct stat info = {};
  struct statfs system = {};
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || statfs(path.c_str(), &system) != 0) {
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

absl::Status ReadDisk(state::Disk::Reader disk, const ArrivalOptions& options, MachineConfig& config) {
  FERRITE_ASSIGN_OR_RETURN(std::string id, TextOf(disk.getId(), "disk id"));
  FERRITE_ASSIGN_OR_RETURN(std::string path, TextOf(disk.getPath(), "disk path"));
  if (id.empty() || id.size() > kMaxDiskId ||
      std::any_of(config.disks.begin(), config.disks.end(), [&](const DiskConfig& other) { return other.id == id; })) {
    return absl::InvalidArgumentError(absl::StrCat("the machine has a disk with the id '", id, "', or two with it"));
  }
  const auto mapped = options.disk_paths.find(id);
  const bool is_mapped = mapped != options.disk_paths.end();
  if (is_mapped) {
    path = mapped->second;
  }
  const auto image = DiskImage::LookAt(path, disk.getReadOnly());
  if (!image.ok()) {
    return absl::Status(
        image.status().code(),
        absl::StrCat(
            "disk ", id, ": ", image.status().message(),
            is_mapped ? "" : absl::StrCat("; if it is elsewhere here, `ferrite receive --disk ", id, "=PATH`")));
  }
  if (!is_mapped && !image->in_use) {
    return absl::FailedPreconditionError(
        absl::StrCat("disk ", id, ": ", path,
                     " is not open here as the source's disk would be, so that it is not taken on the source's word; "
                     "if it is the machine's disk, `ferrite receive --disk ",
                     id, "=PATH`"));
  }
  // Copies of what is only read are as good.
  if (is_mapped && !image->in_use && !disk.getReadOnly() && !options.trust_disks && LocksShow(path)) {
    return absl::FailedPreconditionError(
        absl::StrCat("disk ", id, ": ", path,
                     " is on a file system of this host alone, and nobody has it open: it is not the disk that the "
                     "source writes to, or that reaches it in a way which does not show here; if it is that disk, "
                     "`ferrite receive --trust-disks`"));
  }
  config.disks.push_back(
      {.id = std::move(id), .path = std::move(path), .read_only = disk.getReadOnly(), .sectors = image->sectors});
  return absl::OkStatus();
}

absl::Status ReadBoot(state::Boot::Reader boot, const ArrivalOptions& options, MachineConfig& config) {
  FERRITE_ASSIGN_OR_RETURN(config.command_line, TextOf(boot.getCommandLine(), "kernel command line"));
  if (!options.kernel_path.empty()) {
    config.kernel_path = options.kernel_path;
    config.initrd_path = options.initrd_path;
    return absl::OkStatus();
  }
  if (!config.reboot_on_reset || boot.getKernelPath().size() == 0) {
    return absl::OkStatus();
  }
  FERRITE_ASSIGN_OR_RETURN(config.kernel_path, TextOf(boot.getKernelPath(), "kernel path"));
  FERRITE_ASSIGN_OR_RETURN(config.initrd_path, TextOf(boot.getInitrdPath(), "initrd path"));
  absl::Status status = CheckBootFile("kernel", config.kernel_path, boot.getKernel());
  if (status.ok() && !config.initrd_path.empty()) {
    status = CheckBootFile("initrd", config.initrd_path, boot.getInitrd());
  }
  if (!status.ok()) {
    return absl::Status(
        status.code(),
        absl::StrCat(status.message(),
                     "; a reset would boot it: copy the source's, or name another with `ferrite receive --kernel FILE "
                     "[--initrd FILE]`, or `ferrite run` the machine with --no-reboot"));
  }
  return absl::OkStatus();
}

absl::Status ReadDevices(state::MachineDescription::Reader described, MachineConfig& config) {
  size_t disks = 0;
  for (const state::DeviceSummary::Reader device : described.getDevices()) {
    FERRITE_ASSIGN_OR_RETURN(const std::string name, TextOf(device.getName(), "device name"));
    if (name == "virtio-rng") {
      config.rng = true;
    } else if (name == "virtio-balloon") {
      config.balloon_bytes = 0;  // its target comes with its state
    } else if (absl::StartsWith(name, kDiskPrefix)) {
      if (disks >= config.disks.size() || config.disks[disks].id != name.substr(kDiskPrefix.size())) {
        return absl::InvalidArgumentError(absl::StrCat("the device ", name, " has no disk"));
      }
      ++disks;
    } else if (name != "serial0" && name != "power") {
      return absl::FailedPreconditionError(absl::StrCat("this ferrite does not know the device ", name));
    }
  }
  if (disks != config.disks.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the disk ", config.disks[disks].id, " has no device"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MachineConfig> ConfigOf(state::MachineDescription::Reader described, const ArrivalOptions& options,
                                       const Kvm& kvm) {
  FERRITE_RETURN_IF_ERROR(CheckCpus(described, kvm));
  MachineConfig config;
  config.name = options.name;
  config.cpus = described.getCpus();
  config.dirty_ring = options.dirty_ring;
  config.reboot_on_reset = described.getRebootOnReset();
  FERRITE_RETURN_IF_ERROR(ReadMemory(described.getMemory(), config));
  FERRITE_RETURN_IF_ERROR(ReadBoot(described.getBoot(), options, config));
  config.disks_elsewhere = true;
  for (const state::Disk::Reader disk : described.getDisks()) {
    FERRITE_RETURN_IF_ERROR(ReadDisk(disk, options, config));
  }
  for (const auto& [id, path] : options.disk_paths) {
    // clang 14 captures no structured bindings.
    const std::string& wanted = id;
    if (std::none_of(config.disks.begin(), config.disks.end(),
                     [&wanted](const DiskConfig& disk) { return disk.id == wanted; })) {
      return absl::FailedPreconditionError(
          absl::StrCat("the machine has no disk with the id ", id, ", for which --disk names ", path));
    }
  }
  FERRITE_RETURN_IF_ERROR(ReadDevices(described, config));
  return config;
}

absl::Status CheckSameMachine(state::MachineDescription::Reader there, state::MachineDescription::Reader here) {
  if (there.getStateVersion() > here.getStateVersion()) {
    return absl::FailedPreconditionError(absl::StrCat("the machine's state has version ", there.getStateVersion(),
                                                      ", this ferrite reads at most ", here.getStateVersion()));
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
  for (uint32_t i = 0; i < there.getDisks().size(); ++i) {
    const state::Disk::Reader theirs = there.getDisks()[i];
    const state::Disk::Reader ours = here.getDisks()[i];
    if (theirs.getBytes() != ours.getBytes()) {
      return absl::FailedPreconditionError(absl::StrCat("disk ", ours.getId().cStr(), " has ", theirs.getBytes(),
                                                        " bytes at the source, but ", ours.getPath().cStr(), " has ",
                                                        ours.getBytes(), " here: it is not the same disk"));
    }
  }
  return absl::OkStatus();
}

}  // namespace ferrite
