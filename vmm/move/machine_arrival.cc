#include "vmm/move/machine_arrival.h"

#include <capnp/message.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "base/lock_limit.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/pinned_file.h"
#include "base/status.h"
#include "base/thread.h"
#include "devices/balloon/balloon_inhibitor.h"
#include "vmm/machine/host_limits.h"
#include "vmm/machine/movable_machine.h"
#include "vmm/mirror/image_target.h"
#include "vmm/move/described_machine.h"
#include "vmm/move/description.h"
#include "vmm/move/state_blob.h"

namespace ferrite {
namespace {

// Whether all of the memory may be locked. Nothing is brought in by that: the move does it.
absl::Status TryLock(GuestMemory& memory) {
  const absl::Cleanup unlock = [&memory] {
    for (const auto& region : memory.regions()) {
      (void)munlock(region->guest_mapping().data(), region->guest_mapping().size());
    }
  };
  absl::Status status;
  for (const auto& region : memory.regions()) {
    const auto mapping = region->guest_mapping();
    if (status.ok() && mlock2(mapping.data(), mapping.size(), MLOCK_ONFAULT) != 0) {
      status = ErrnoStatus(absl::StrCat("--mlock: lock ", mapping.size() >> 20,
                                        " MiB (raise the limit with `ulimit -l` or LimitMEMLOCK=)"));
    }
  }
  return status;
}

class ArrivalPort final : public migration::WholeDestinationMachine {
 public:
  // `tell` gets what is no peer's to hear.
  ArrivalPort(Machine& machine, bool lock_memory, std::vector<std::unique_ptr<DiskLanding>> landings,
              std::function<void(absl::string_view)> tell)
      : machine_(machine), lock_memory_(lock_memory), landings_(std::move(landings)), tell_(std::move(tell)) {}

  GuestMemory& memory() override { return machine_.memory(); }
  std::vector<migration::IncomingPart*> further_parts() override {
    std::vector<migration::IncomingPart*> parts;
    for (const auto& landing : landings_) {
      parts.push_back(landing.get());
    }
    return parts;
  }
  bool Declines(const migration::MachineSpec::Region& offered) override {
    return std::none_of(landings_.begin(), landings_.end(),
                        [&](const auto& landing) { return landing->id() == offered.name; });
  }

  void InhibitBalloon() override { no_ballooning_ = machine_.moving().InhibitBalloon("a move"); }
  void AllowBalloon() override { no_ballooning_.Release(); }

  absl::Status SetLocked(bool locked) override {
    if (!lock_memory_) {
      return absl::OkStatus();
    }
    for (const auto& region : memory().regions()) {
      FERRITE_RETURN_IF_ERROR(locked ? region->Lock() : region->Unlock());
    }
    return absl::OkStatus();
  }

  absl::Status CheckState(std::span<const uint8_t> blob) override {
    return DecodeState(blob, [this](state::Machine::Reader state) { return machine_.CheckState(state); });
  }
  absl::StatusOr<absl::Duration> MeasureLoad() override { return machine_.moving().MeasureLoad(); }
  absl::Status LoadState(std::span<const uint8_t> blob) override {
    return DecodeState(blob, [this](state::Machine::Reader state) {
      stays_paused_ = state.getPaused();
      return machine_.LoadState(state);
    });
  }

  absl::Status AcquireDisks() override {
    for (const auto& landing : landings_) {
      landing->HandOver();
    }
    const absl::Status status = CatchOutOfMemory([this] { return machine_.moving().AcquireDisks(); });
    if (status.ok()) {
      return status;
    }
    GiveDisksBack();
    if (machine_.state() == MachineState::kStopped) {
      return status;
    }
    IfThereIsMemory([&] { tell_(status.message()); });
    return absl::FailedPreconditionError(
        "a disk of the machine cannot be taken here, and the log of the destination says why");
  }

  absl::Status Run() override {
    for (const auto& landing : landings_) {
      Warn(*landing, CatchOutOfMemory([&] { return landing->Unmark(); }));
    }
    const absl::Status status = CatchOutOfMemory([this] { return machine_.moving().Arrive(/*run=*/!stays_paused_); });
    if (!status.ok()) {
      GiveDisksBack();
      return status;
    }
    for (const auto& landing : landings_) {
      landing->Arrived();
    }
    if (!landings_.empty()) {
      // Nobody waits for this: neither the guest nor the source, which is to hear that it runs.
      IfThereIsMemory([this] {
        auto started = Thread::Start("disks-settle", [this] { SettleDisks(); });
        if (started.ok()) {
          settling_ = *std::move(started);
        }
      });
    }
    return absl::OkStatus();
  }

  bool Ended() override { return machine_.state() == MachineState::kStopped; }

  std::optional<uint32_t> VcpuOfThread(pid_t thread) override { return machine_.moving().VcpuOfThread(thread); }
  absl::Duration EntryWait() override { return machine_.moving().EntryWait(); }

 private:
  void SettleDisks() {
    for (const auto& landing : landings_) {
      Warn(*landing, CatchOutOfMemory([&] { return landing->Settled(); }));
    }
  }
  static void Warn(const DiskLanding& landing, const absl::Status& status) {
    if (!status.ok()) {
      IfThereIsMemory([&] {
        Log().warn("receive: {} is whole, and its mark may stay: {}", std::string(landing.name()),
                   std::string(status.message()));
      });
    }
  }
  // The source takes them again as soon as it hears that the guest does not run here, whatever the reason.
  void GiveDisksBack() {
    UntilThereIsMemory([this] {
      if (const absl::Status status = machine_.moving().ReleaseDisks({}); !status.ok()) {
        Log().warn("receive: {}", status.ToString());
      }
    });
  }

  Machine& machine_;
  const bool lock_memory_;
  const std::vector<std::unique_ptr<DiskLanding>> landings_;
  const std::function<void(absl::string_view)> tell_;
  bool stays_paused_ = false;
  Thread settling_;  // when the guest runs
  BalloonInhibitor::Token no_ballooning_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MachineArrival>> MachineArrival::Create(Host host, ArrivalOptions options) {
  FERRITE_ASSIGN_OR_RETURN(AllowedFiles files, AllowedFiles::Find(options));
  return std::unique_ptr<MachineArrival>(new MachineArrival(std::move(host), std::move(options), std::move(files)));
}

absl::StatusOr<std::unique_ptr<migration::DestinationMachine>> MachineArrival::Build(
    const migration::MachineSpec& spec) {
  FERRITE_RETURN_IF_ERROR(DecodeDescription(
      spec, [&](state::MachineDescription::Reader description) { return Make(description, spec.regions); }));
  return std::make_unique<ArrivalPort>(*machine_, options_.lock_memory, std::exchange(landings_, {}),
                                       [this](absl::string_view words) { Tell(words); });
}

absl::Status MachineArrival::Make(state::MachineDescription::Reader description,
                                  std::span<const migration::MachineSpec::Region> regions) {
  FERRITE_ASSIGN_OR_RETURN(const HostLimits limits, ReadHostLimits(host_.kvm));
  std::vector<std::unique_ptr<DiskLanding>> landings;
  auto abandon = absl::MakeCleanup([&landings] {
    for (const auto& landing : landings) {
      landing->Abandoned();
    }
  });
  const auto open_copy =
      [&](const std::string& id, uint64_t bytes,
          const AllowedFiles::CopyPlace& place) -> absl::StatusOr<std::shared_ptr<const PinnedFile>> {
    FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<DiskLanding> landing, OpenLanding(id, bytes, place));
    landings.push_back(std::move(landing));
    return landings.back()->file();
  };
  FERRITE_ASSIGN_OR_RETURN(const MachineConfig config,
                           ConfigOf(
                               description, regions, options_, files_, digests_, limits,
                               [this](absl::string_view words) { Tell(words); }, open_copy));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Machine> machine,
                           Machine::Create(config, host_.kvm, host_.loop, host_.console));
  capnp::MallocMessageBuilder here;
  FERRITE_RETURN_IF_ERROR(machine->moving().Describe(here.initRoot<state::MachineDescription>()));
  FERRITE_RETURN_IF_ERROR(CheckSameMachine(description, here.getRoot<state::MachineDescription>().asReader()));
  if (options_.lock_memory) {
    FERRITE_RETURN_IF_ERROR(TryLock(machine->memory()));
  }
  if (options_.pin_memory) {
    FERRITE_RETURN_IF_ERROR(
        CheckLockLimit(ReadLockLimit(), "a machine that comes over RDMA", machine->memory().total_bytes()));
  }
  FERRITE_RETURN_IF_ERROR(machine->moving().Hold("the machine is still arriving").status());
  std::move(abandon).Cancel();
  machine_ = std::move(machine);
  landings_ = std::move(landings);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DiskLanding>> MachineArrival::OpenLanding(const std::string& id, uint64_t bytes,
                                                                         const AllowedFiles::CopyPlace& place) {
  ImagePlace found{.directory = Fd(), .file = place.file};
  if (place.directory != nullptr) {
    FERRITE_ASSIGN_OR_RETURN(found.directory, place.directory->Duplicate());
  }
  auto landing = std::make_unique<DiskLanding>(id, bytes);
  // It is written from the threads that receive; the blocks of the target, and their loop, are not used.
  FERRITE_ASSIGN_OR_RETURN(
      std::unique_ptr<ImageTarget> target,
      OpenImageTarget(
          {.where = place.path, .existing = place.file != nullptr, .bytes = bytes, .exact = true, .depth = 1},
          host_.loop, std::move(found)));
  landing->Take(std::move(target));
  Log().info("receive: disk {} is copied to {}", id, place.path);
  return landing;
}

void MachineArrival::Tell(absl::string_view words) { told_.Tell(words); }

void MachineArrival::Accepted() {
  if (host_.built) {
    host_.built(*machine_);
  }
}

}  // namespace ferrite
