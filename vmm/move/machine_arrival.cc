#include "vmm/move/machine_arrival.h"

#include <capnp/message.h>
#include <sys/mman.h>

#include <functional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "devices/balloon/balloon_inhibitor.h"
#include "vmm/machine/host_limits.h"
#include "vmm/machine/movable_machine.h"
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
  ArrivalPort(Machine& machine, bool lock_memory, std::function<void(absl::string_view)> tell)
      : machine_(machine), lock_memory_(lock_memory), tell_(std::move(tell)) {}

  GuestMemory& memory() override { return machine_.memory(); }

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
    const absl::Status status = CatchOutOfMemory([this] { return machine_.moving().Arrive(/*run=*/!stays_paused_); });
    if (!status.ok()) {
      GiveDisksBack();
    }
    return status;
  }

  bool Ended() override { return machine_.state() == MachineState::kStopped; }

  std::optional<uint32_t> VcpuOfThread(pid_t thread) override { return machine_.moving().VcpuOfThread(thread); }
  absl::Duration EntryWait() override { return machine_.moving().EntryWait(); }

 private:
  // The source takes them again as soon as it hears that the guest does not run here, whatever the reason.
  void GiveDisksBack() {
    UntilThereIsMemory([this] {
      if (const absl::Status status = machine_.moving().ReleaseDisks(); !status.ok()) {
        Log().warn("receive: {}", status.ToString());
      }
    });
  }

  Machine& machine_;
  const bool lock_memory_;
  const std::function<void(absl::string_view)> tell_;
  bool stays_paused_ = false;
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
  return std::make_unique<ArrivalPort>(*machine_, options_.lock_memory,
                                       [this](absl::string_view words) { Tell(words); });
}

absl::Status MachineArrival::Make(state::MachineDescription::Reader description,
                                  std::span<const migration::MachineSpec::Region> regions) {
  FERRITE_ASSIGN_OR_RETURN(const HostLimits limits, ReadHostLimits(host_.kvm));
  FERRITE_ASSIGN_OR_RETURN(const MachineConfig config,
                           ConfigOf(description, regions, options_, files_, digests_, limits,
                                    [this](absl::string_view words) { Tell(words); }));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Machine> machine,
                           Machine::Create(config, host_.kvm, host_.loop, host_.console));
  capnp::MallocMessageBuilder here;
  FERRITE_RETURN_IF_ERROR(machine->moving().Describe(here.initRoot<state::MachineDescription>()));
  FERRITE_RETURN_IF_ERROR(CheckSameMachine(description, here.getRoot<state::MachineDescription>().asReader()));
  if (options_.lock_memory) {
    FERRITE_RETURN_IF_ERROR(TryLock(machine->memory()));
  }
  FERRITE_RETURN_IF_ERROR(machine->moving().Hold("the machine is still arriving").status());
  machine_ = std::move(machine);
  return absl::OkStatus();
}

void MachineArrival::Tell(absl::string_view words) { told_.Tell(words); }

void MachineArrival::Accepted() {
  if (host_.built) {
    host_.built(*machine_);
  }
}

}  // namespace ferrite
