#include "vmm/move/machine_source.h"

#include <capnp/message.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/api/machine_spec.h"
#include "proto/machine.capnp.h"
#include "proto/state.capnp.h"
#include "vmm/control/grant_record.h"
#include "vmm/machine/machine_disks.h"
#include "vmm/machine/movable_machine.h"
#include "vmm/move/boot_files.h"
#include "vmm/move/described_machine.h"
#include "vmm/move/engine_host.h"
#include "vmm/move/state_blob.h"

namespace ferrite {
namespace {

// How long to wait for a disk that somebody else has, and between two looks at it.
constexpr absl::Duration kDiskPatience = absl::Seconds(5);
constexpr absl::Duration kBetweenTries = absl::Milliseconds(50);

// The destination's monitor works in another directory.
std::string Absolute(const std::string& path) {
  if (path.empty()) {
    return path;
  }
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.string();
}

}  // namespace

MachineSource::MachineSource(Machine& machine, const Fd& directory) : machine_(machine), directory_(directory) {
  const MachineConfig config = machine.config();
  if (!config.all<DiskConfig>().empty()) {
    for (const MachineDisks::Disk& disk : machine.disks().List()) {
      disks_.push_back(std::make_unique<DiskPart>(machine.disks(), disk, EngineHost().clock));
    }
  }
}

MachineSource::~MachineSource() = default;

absl::StatusOr<migration::MachineSpec> MachineSource::Describe() {
  capnp::MallocMessageBuilder message;
  auto out = message.initRoot<state::MachineDescription>();
  FERRITE_RETURN_IF_ERROR(machine_.moving().Describe(out));
  const MachineConfig config = machine_.config();
  for (auto disk : out.getDisks()) {
    disk.setPath(Absolute(disk.getPath().cStr()));
  }
  if (!config.kernel_path.empty()) {
    auto boot = out.getBoot();
    boot.setKernelPath(Absolute(config.kernel_path));
    if (!config.initrd_path.empty()) {
      boot.setInitrdPath(Absolute(config.initrd_path));
    }
    if (config.reboot_on_reset) {
      // The files that a reset would boot here now.
      DescribeBootFile(*config.kernel, ended_, boot.initKernel());
      if (!config.initrd_path.empty()) {
        DescribeBootFile(*config.initrd, ended_, boot.initInitrd());
      }
    }
  }
  return EncodeDescription(message);
}

std::vector<migration::OutgoingPart*> MachineSource::further_parts() {
  std::vector<migration::OutgoingPart*> parts;
  for (const auto& disk : disks_) {
    parts.push_back(disk.get());
  }
  return parts;
}

std::vector<std::string> MachineSource::CopiedDisks() const {
  std::vector<std::string> ids;
  for (const auto& disk : disks_) {
    if (disk->mirrored()) {
      ids.push_back(disk->id());
    }
  }
  return ids;
}

void MachineSource::Moved(absl::string_view where) {
  for (const auto& disk : disks_) {
    if (const absl::Status status = disk->mirrored() ? disk->WriteOut() : absl::OkStatus(); !status.ok()) {
      Log().warn("move: {}, which was copied: {}", std::string(disk->name()), std::string(status.message()));
    }
  }
  machine_.moving().Leave(std::string(where));
}

absl::Status MachineSource::StartDirtyTracking() {
  FERRITE_RETURN_IF_ERROR(machine_.moving().StartDirtyTracking());
  absl::Cleanup stop = [this] { UntilThereIsMemory([this] { StopDirtyTracking(); }); };
  // The machine counts everything as written at first. The move has not read a page yet: none of that is news.
  const auto regions = machine_.memory().regions();
  for (size_t i = 0; i < regions.size(); ++i) {
    PageBitmap before(regions[i]->pages());
    FERRITE_RETURN_IF_ERROR(machine_.moving().CollectDirty(i, before));
  }
  std::move(stop).Cancel();
  return absl::OkStatus();
}

void MachineSource::StopDirtyTracking() {
  if (const absl::Status status = machine_.moving().StopDirtyTracking(); !status.ok()) {
    Log().warn("move: dirty tracking stays on: {}", status.ToString());
  }
}

void MachineSource::InhibitBalloon() { no_ballooning_ = machine_.moving().InhibitBalloon("a move"); }

void MachineSource::AllowBalloon() { no_ballooning_.Release(); }

absl::Status MachineSource::Pause() {
  FERRITE_ASSIGN_OR_RETURN(ran_, machine_.moving().Hold("the machine is on its way to another monitor"));
  held_ = true;
  return absl::OkStatus();
}

absl::Status MachineSource::Resume() {
  if (!held_) {
    return absl::OkStatus();
  }
  // It counts as held to the end: what found no memory on the way is done again.
  EndHold();
  absl::Status status = ran_ ? machine_.Resume() : absl::OkStatus();
  held_ = false;
  return status;
}

void MachineSource::StayPaused() {
  if (held_) {
    EndHold();
    held_ = false;
  }
}

void MachineSource::EndHold() {
  if (const absl::Status status = RemoveGrantRecord(directory_); !status.ok()) {
    Log().warn("move: {}", status.ToString());
  }
  machine_.moving().EndHold();
}

absl::Status MachineSource::AcquireDisks() {
  const MonotonicTime deadline = MonotonicTime::Now() + kDiskPatience;
  for (;;) {
    absl::Status status = machine_.moving().AcquireDisks();
    // A destination that refuses has let go before it says so, but a backup or a `qemu-img info` may look just now.
    if (!absl::IsFailedPrecondition(status) || machine_.state() == MachineState::kStopped) {
      return status;
    }
    const TimedMutexLock lock(&mutex_);
    if (mutex_.AwaitFor(absl::Condition(&stop_trying_), kBetweenTries) || MonotonicTime::Now() >= deadline) {
      return status;
    }
  }
}

void MachineSource::StopTrying() {
  const TimedMutexLock lock(&mutex_);
  stop_trying_ = true;
}

absl::StatusOr<std::vector<uint8_t>> MachineSource::SaveState() {
  capnp::MallocMessageBuilder message;
  auto state = message.initRoot<state::Machine>();
  FERRITE_RETURN_IF_ERROR(machine_.Save(state));
  state.setPaused(!ran_);
  return EncodeState(message);
}

// On a disk the record takes two of its turns, milliseconds each: the guest waits for one of them.
absl::Status MachineSource::PrepareGrant(const migration::MoveId& move_id, uint64_t epoch, absl::string_view where) {
  FERRITE_ASSIGN_OR_RETURN(PreparedGrant grant, PreparedGrant::Write(directory_, move_id, epoch, where));
  grant_.emplace(std::move(grant));
  return absl::OkStatus();
}

absl::Status MachineSource::RecordGrant(const migration::MoveId& move_id, uint64_t epoch, absl::string_view where) {
  if (!grant_.has_value() || !grant_->Says(move_id, epoch, where)) {
    grant_.reset();
    FERRITE_RETURN_IF_ERROR(PrepareGrant(move_id, epoch, where));
  }
  const absl::Status status = grant_->Commit();
  grant_.reset();
  return status;
}

}  // namespace ferrite
