#include "vmm/machine/device_kinds.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/byte_size.h"
#include "base/status.h"
#include "devices/balloon/balloon.h"
#include "devices/block/async_io.h"
#include "devices/block/block.h"
#include "devices/block/disk_image.h"
#include "devices/rng/rng.h"

namespace ferrite {
namespace {

using Built = absl::StatusOr<std::unique_ptr<virtio::Device>>;

void DescribeNothing(const DeviceConfig&, const virtio::Device&, DeviceDetails&) {}

// ---- virtio-rng ----

constexpr DeviceKind kRng = {
    .name = "virtio-rng",
    .most = 1,
    .plural = "",
    .label = "rng",
    .has_figures = false,
    .option = {.name = "--rng", .value = "", .help = "A source of randomness"},
    .parse = [](absl::string_view, size_t) -> absl::StatusOr<DeviceConfig> { return RngConfig(); },
    .check = [](const DeviceConfig&, const MachineConfig&) { return absl::OkStatus(); },
    .build = [](const DeviceConfig&, const DeviceHost&) -> Built { return std::make_unique<Rng>(); },
    .describe = DescribeNothing,
    .accept = [](absl::string_view, const DeviceDetails&) -> absl::StatusOr<DeviceConfig> { return RngConfig(); },
    .report = [](const DeviceConfig&) { return DeviceReport{.kind = "virtio-rng"}; },
};

// ---- virtio-balloon ----

absl::Status CheckBalloon(const DeviceConfig& config, const MachineConfig& machine) {
  const uint64_t bytes = std::get<BalloonConfig>(config).bytes;
  if (bytes % kPageBytes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(FormatByteSize(bytes), " is not a multiple of ", kPageBytes));
  }
  if (bytes > machine.memory_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(FormatByteSize(bytes), " is more than the machine's ",
                                                   FormatByteSize(machine.memory_bytes), " of memory"));
  }
  return absl::OkStatus();
}

constexpr DeviceKind kBalloon = {
    .name = "virtio-balloon",
    .most = 1,
    .plural = "",
    .label = "balloon",
    .has_figures = true,
    .option = {.name = "--balloon",
               .value = "SIZE",
               .help = "Give it a balloon device; SIZE of the guest's memory is given back from the start, 0 for none"},
    .parse = [](absl::string_view words, size_t) -> absl::StatusOr<DeviceConfig> {
      FERRITE_ASSIGN_OR_RETURN(const uint64_t bytes, ParseByteSize(words));
      return BalloonConfig{.bytes = bytes};
    },
    .check = CheckBalloon,
    .build = [](const DeviceConfig& config, const DeviceHost& host) -> Built {
      return std::make_unique<Balloon>(host.memory, std::get<BalloonConfig>(config).bytes);
    },
    .describe = DescribeNothing,
    // The target comes with the state.
    .accept = [](absl::string_view, const DeviceDetails&) -> absl::StatusOr<DeviceConfig> { return BalloonConfig(); },
    .report = [](const DeviceConfig&) { return DeviceReport{.kind = "virtio-balloon"}; },
};

// ---- virtio-blk ----

constexpr size_t kMaxDiskId = 20;  // VIRTIO_BLK_ID_BYTES

// "[id=ID,]path=PATH[,ro]"; `index` gives a disk without an id its own: "disk0".
absl::StatusOr<DeviceConfig> ParseDisk(absl::string_view words, size_t index) {
  DiskConfig disk;
  disk.id = absl::StrCat("disk", index);
  for (const absl::string_view part : absl::StrSplit(words, ',')) {
    if (part == "ro") {
      disk.read_only = true;
    } else if (absl::StartsWith(part, "id=")) {
      disk.id = std::string(part.substr(3));
    } else if (absl::StartsWith(part, "path=") && disk.path.empty()) {
      disk.path = std::string(part.substr(5));
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", absl::CHexEscape(part), "\" in \"", words, "\": write [id=ID,]path=FILE[,ro]"));
    }
  }
  if (disk.path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", words, "\" names no path: write [id=ID,]path=FILE[,ro]"));
  }
  return disk;
}

absl::Status CheckDisk(const DeviceConfig& config, const MachineConfig&) {
  const std::string& id = std::get<DiskConfig>(config).id;
  const bool characters_ok = std::all_of(id.begin(), id.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  });
  if (id.empty() || id.size() > kMaxDiskId || !characters_ok) {
    return absl::InvalidArgumentError(absl::StrCat("disk id \"", absl::CHexEscape(id), "\": use 1 to ", kMaxDiskId,
                                                   " of the characters A-Z a-z 0-9 _ -"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DiskImage>> MakeImage(const DiskConfig& disk, bool elsewhere) {
  if (!elsewhere) {
    return DiskImage::Create(disk.path, disk.read_only);
  }
  if (disk.file != nullptr) {
    return DiskImage::CreateReleased(disk.file, disk.read_only, disk.sectors);
  }
  return DiskImage::CreateReleased(disk.path, disk.read_only);
}

Built BuildDisk(const DeviceConfig& config, const DeviceHost& host) {
  const DiskConfig& disk = std::get<DiskConfig>(config);
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<DiskImage> image, MakeImage(disk, host.disks_elsewhere));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<AsyncIo> io, AsyncIo::Create(host.loop, kBlockQueueSize));
  return std::make_unique<Block>(disk.id, std::move(image), std::move(io));
}

void DescribeDisk(const DeviceConfig& config, const virtio::Device& device, DeviceDetails& details) {
  const DiskConfig& disk = std::get<DiskConfig>(config);
  const Block& block = static_cast<const Block&>(device);
  const virtio::Device::Lock lock(&block);
  details.disks.push_back({.id = disk.id,
                           .path = block.image().PathNow(),
                           .bytes = block.image().sectors() * kSectorBytes,
                           .read_only = disk.read_only});
}

absl::StatusOr<DeviceConfig> AcceptDisk(absl::string_view id, const DeviceDetails& details) {
  const auto disk = std::find_if(details.disks.begin(), details.disks.end(),
                                 [id](const DeviceDetails::Disk& described) { return described.id == id; });
  if (disk == details.disks.end()) {
    return absl::InvalidArgumentError(absl::StrCat("the device virtio-blk:", id, " has no disk"));
  }
  return DiskConfig{.id = disk->id, .path = disk->path, .read_only = disk->read_only};
}

constexpr DeviceKind kDisk = {
    .name = "virtio-blk",
    .most = kMaxDisks,
    .plural = "disks",
    .label = "disk",
    .has_figures = false,
    .option = {.name = "--disk",
               .value = "DISK",
               .help = "[id=ID,]path=FILE[,ro]: a raw image as a virtio block device; repeatable"},
    .parse = ParseDisk,
    .check = CheckDisk,
    .build = BuildDisk,
    .describe = DescribeDisk,
    .accept = AcceptDisk,
    .report =
        [](const DeviceConfig& config) {
          const DiskConfig& disk = std::get<DiskConfig>(config);
          return DeviceReport{
              .kind = "virtio-blk", .id = disk.id, .facts = {{"path", disk.path}, {"read_only", disk.read_only}}};
        },
};

constexpr DeviceKind kKinds[] = {kRng, kBalloon, kDisk};
static_assert(std::size(kKinds) == std::variant_size_v<DeviceConfig>);

}  // namespace

std::span<const DeviceKind> DeviceKinds() { return kKinds; }

std::vector<const DeviceKind*> DeviceKindsAsShown() {
  std::vector<const DeviceKind*> shown;
  for (const DeviceKind& kind : DeviceKinds()) {
    shown.insert(shown.begin(), &kind);
  }
  return shown;
}

const DeviceKind& KindOf(const DeviceConfig& device) { return kKinds[device.index()]; }

const DeviceKind* FindKind(absl::string_view name) {
  const auto kind = std::find_if(std::begin(kKinds), std::end(kKinds),
                                 [name](const DeviceKind& known) { return known.name == name; });
  return kind == std::end(kKinds) ? nullptr : kind;
}

std::string DeviceId(const DeviceConfig& device) { return KindOf(device).report(device).id; }

std::string DeviceName(const DeviceConfig& device) {
  const DeviceKind& kind = KindOf(device);
  return kind.most == 1 ? std::string(kind.name) : absl::StrCat(kind.name, ":", DeviceId(device));
}

}  // namespace ferrite
