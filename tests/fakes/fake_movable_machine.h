// The side of a machine that a move needs, for tests of what only begins one.
#ifndef FERRITE_TESTS_FAKES_FAKE_MOVABLE_MACHINE_H_
#define FERRITE_TESTS_FAKES_FAKE_MOVABLE_MACHINE_H_

#include <span>
#include <string>

#include "vmm/machine/movable_machine.h"

namespace ferrite {

// Has nothing to do and does all of it well.
class FakeMovableMachine final : public MovableMachine {
 public:
  absl::Status StartDirtyTracking() override { return absl::OkStatus(); }
  absl::Status CollectDirty(size_t, PageBitmap&) override { return absl::OkStatus(); }
  absl::Status StopDirtyTracking() override { return absl::OkStatus(); }
  absl::Status Describe(state::MachineDescription::Builder) override { return absl::OkStatus(); }
  absl::StatusOr<bool> Hold(std::string) override { return false; }
  void EndHold() override {}
  absl::Status Arrive(bool) override { return absl::OkStatus(); }
  void Leave(std::string) override {}
  absl::Status ReleaseDisks(std::span<const std::string>) override { return absl::OkStatus(); }
  absl::Status AcquireDisks() override { return absl::OkStatus(); }
  absl::Status SetThrottle(int) override { return absl::OkStatus(); }
  absl::StatusOr<absl::Duration> MeasureLoad() override { return absl::ZeroDuration(); }
  std::optional<uint32_t> VcpuOfThread(pid_t) const override { return std::nullopt; }
  std::vector<pid_t> VcpuThreads() const override { return {}; }
  absl::Duration EntryWait() const override { return absl::ZeroDuration(); }
  BalloonInhibitor::Token InhibitBalloon(std::string) override { return {}; }
  void AddUnneededPages(size_t, PageBitmap&) override {}
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FAKE_MOVABLE_MACHINE_H_
