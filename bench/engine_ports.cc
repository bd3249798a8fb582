#include "bench/engine_ports.h"

#include <sys/types.h>

#include <optional>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status.h"

namespace ferrite {
namespace {

absl::Status SetThp(GuestMemory& memory, bool on) {
  for (const auto& region : memory.regions()) {
    FERRITE_RETURN_IF_ERROR(region->SetThp(on));
  }
  return absl::OkStatus();
}

class EngineDestinationPort final : public migration::WholeDestinationMachine {
 public:
  EngineDestinationPort(GuestMemory& memory, EngineGuest& guest) : memory_(memory), guest_(guest) {}

  GuestMemory& memory() override { return memory_; }
  void InhibitBalloon() override {}
  void AllowBalloon() override {}
  absl::Status SetLocked(bool) override { return absl::OkStatus(); }
  absl::Status CheckState(std::span<const uint8_t> state) override { return guest_.Check(state); }
  absl::StatusOr<absl::Duration> MeasureLoad() override {
    // Its own state is loaded in no time.
    return absl::Microseconds(10);
  }
  absl::Status LoadState(std::span<const uint8_t> state) override {
    guest_.Load(state);
    return absl::OkStatus();
  }
  absl::Status AcquireDisks() override { return absl::OkStatus(); }
  absl::Status Run() override {
    guest_.Resume();
    return absl::OkStatus();
  }
  bool Ended() override { return false; }
  // All threads of the guest's are one account.
  std::optional<uint32_t> VcpuOfThread(pid_t thread) override {
    return guest_.HasThread(thread) ? std::optional<uint32_t>(0) : std::nullopt;
  }

 private:
  GuestMemory& memory_;
  EngineGuest& guest_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GuestMemory>> MakeEngineMemory(const EngineMemory& what) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<GuestMemory> memory, GuestMemory::Create(what.bytes, what.backing));
  FERRITE_RETURN_IF_ERROR(SetThp(*memory, what.thp));
  return memory;
}

absl::StatusOr<migration::MachineSpec> EngineSourcePort::Describe() {
  return migration::MachineSpec{.regions = {}, .kind = "engine-bench", .version = 1, .machine = {}};
}

absl::Status EngineSourcePort::StartDirtyTracking() {
  for (const auto& region : memory_.regions()) {
    PageBitmap before(region->pages());
    region->own_writes().TakeInto(before);
  }
  return absl::OkStatus();
}

absl::Status EngineSourcePort::CollectDirty(size_t index, PageBitmap& into) {
  memory_.regions()[index]->own_writes().TakeInto(into);
  return absl::OkStatus();
}

absl::Status EngineSourcePort::Pause() {
  guest_.Pause();
  return absl::OkStatus();
}

absl::Status EngineSourcePort::Resume() {
  guest_.Resume();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<migration::DestinationMachine>> EngineDestination::Build(
    const migration::MachineSpec& spec) {
  uint64_t bytes = 0;
  for (const migration::MachineSpec::Region& region : spec.regions) {
    bytes += region.bytes;
  }
  if (bytes != what_.bytes) {
    return absl::FailedPreconditionError(absl::StrCat("a machine of ", bytes, " bytes, not of ", what_.bytes));
  }
  guest_.reset();
  FERRITE_ASSIGN_OR_RETURN(memory_, MakeEngineMemory(what_));
  guest_ = std::make_unique<EngineGuest>(*memory_, plan_);
  return std::make_unique<EngineDestinationPort>(*memory_, *guest_);
}

}  // namespace ferrite
