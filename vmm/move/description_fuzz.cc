// Whatever a peer says of its machine, what is made of it is a machine of this host (R7, R11).
#include <capnp/serialize.h>
#include <kj/exception.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clean_text.h"
#include "base/status.h"
#include "devices/block/disk_image.h"
#include "tests/fakes/sample_machine.h"
#include "vmm/machine/machine_check.h"
#include "vmm/move/description.h"

namespace {

using namespace ferrite;

// A destination with an image for the disk "root", for as long as the process runs.
class Destination {
 public:
  Destination() {
    char name[] = "/tmp/ferrite-description-fuzz-XXXXXX";
    FERRITE_CHECK(mkdtemp(name) != nullptr);
    directory_ = name;
    const std::string image = directory_ + "/root.img";
    std::ofstream(image).close();
    std::filesystem::resize_file(image, kSampleDiskBytes);
    options_ = {.name = "here",
                .disk_paths = {{"root", image}},
                .disk_from = {directory_},
                .disk_copy_dir = directory_,
                .trust_disks = true,
                .boot_from = {directory_}};
    auto files = AllowedFiles::Find(options_);
    FERRITE_CHECK(files.ok());
    files_.emplace(*std::move(files));
  }
  ~Destination() { std::filesystem::remove_all(directory_); }

  absl::StatusOr<MachineConfig> Configure(state::MachineDescription::Reader described) {
    std::vector<migration::MachineSpec::Region> regions = RegionsOf(described.getMemory().getBytes());
    // Every other one offers its disks.
    if (described.getCpus() % 2 == 0) {
      for (const state::Disk::Reader disk : described.getDisks()) {
        regions.push_back({.kind = migration::RegionKind::kDisk, .name = disk.getId().cStr()});
      }
    }
    return ConfigOf(
        described, regions, options_, *files_, digests_, host_, [](absl::string_view) {},
        [](const std::string&, uint64_t bytes,
           const AllowedFiles::CopyPlace& place) -> absl::StatusOr<std::shared_ptr<const PinnedFile>> {
          FERRITE_CHECK(bytes > 0 && bytes % kSectorBytes == 0 && place.directory != nullptr);
          return absl::UnavailableError("no copies are made here");
        });
  }
  const HostLimits& host() const { return host_; }

 private:
  std::string directory_;
  ArrivalOptions options_;
  std::optional<AllowedFiles> files_;
  BootFileDigests digests_;
  const HostLimits host_ = HostOfSampleMachine();
};

void CheckMachine(const MachineConfig& config, const HostLimits& host) {
  FERRITE_CHECK(CheckMachineConfig(config, DescribedBy::kPeer).ok() &&
                CheckHostHas(config, host, DescribedBy::kPeer).ok());
  for (const DiskConfig* disk : config.all<DiskConfig>()) {
    FERRITE_CHECK(disk->file != nullptr && disk->sectors > 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Destination destination;
  kj::Array<capnp::word> words = kj::heapArray<capnp::word>(size / sizeof(capnp::word));
  std::copy_n(data, words.asBytes().size(), words.asBytes().begin());
  capnp::ReaderOptions limits;
  limits.traversalLimitInWords = 1024 + 4 * words.size();
  limits.nestingLimit = 16;
  (void)kj::runCatchingExceptions([&] {
    capnp::FlatArrayMessageReader reader(words, limits);
    const auto config = destination.Configure(reader.getRoot<state::MachineDescription>());
    if (config.ok()) {
      CheckMachine(*config, destination.host());
    } else {
      FERRITE_CHECK(!config.status().message().empty());
      FERRITE_CHECK(IsClean(std::string(config.status().message())));
    }
  });
  return 0;
}
