// A Machine without KVM for tests of what controls one.
#ifndef FERRITE_TESTS_FAKES_FAKE_MACHINE_H_
#define FERRITE_TESTS_FAKES_FAKE_MACHINE_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "vmm/machine/balloon_port.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_disks.h"
#include "vmm/machine/movable_machine.h"

namespace ferrite {

// Runs from the start. Pause() can be held up, as by a disk that does not answer.
class FakeMachine final : public Machine {
 public:
  // Without `moving` it cannot be moved, without `disks` not mirrored.
  explicit FakeMachine(MachineConfig config, MovableMachine* moving = nullptr, MachineDisks* disks = nullptr)
      : config_(std::move(config)),
        memory_(*GuestMemory::Create(config_.memory_bytes, config_.memory_backing)),
        moving_(moving),
        disks_(disks) {}

  void HoldPause(bool hold) {
    absl::MutexLock lock(&mutex_);
    hold_pause_ = hold;
  }
  void SetResetError(std::string words) {
    absl::MutexLock lock(&mutex_);
    reset_error_ = std::move(words);
  }
  // There is no memory for a reset.
  void StarveReset() {
    absl::MutexLock lock(&mutex_);
    reset_starves_ = true;
  }
  bool pausing() const {
    absl::MutexLock lock(&mutex_);
    return pausing_;
  }
  // What it was asked for: "pause", "stop", in this order.
  std::vector<std::string> operations() const {
    absl::MutexLock lock(&mutex_);
    return operations_;
  }

  absl::Status Boot() override { return absl::OkStatus(); }
  absl::Status Resume() override { return Enter(MachineState::kRunning); }
  absl::Status Pause() override {
    {
      absl::MutexLock lock(&mutex_);
      operations_.push_back("pause");
      pausing_ = true;
      const auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !hold_pause_; };
      mutex_.Await(absl::Condition(&free));
      pausing_ = false;
    }
    return Enter(MachineState::kPaused);
  }
  absl::Status Reset() override {
    absl::MutexLock lock(&mutex_);
    if (reset_starves_) {
      throw std::bad_alloc();
    }
    return absl::InternalError(reset_error_);
  }
  void Stop() override {
    {
      absl::MutexLock lock(&mutex_);
      operations_.push_back("stop");
    }
    (void)Enter(MachineState::kStopped);
  }
  StopInfo WaitUntilStopped() override { return {}; }
  absl::Status Save(state::Machine::Builder) override { return absl::OkStatus(); }
  absl::Status CheckState(state::Machine::Reader) const override { return absl::OkStatus(); }
  absl::Status LoadState(state::Machine::Reader) override { return absl::OkStatus(); }
  MovableMachine& moving() override {
    FERRITE_CHECK(moving_ != nullptr);
    return *moving_;
  }
  MachineDisks& disks() override {
    FERRITE_CHECK(disks_ != nullptr);
    return *disks_;
  }
  MachineState state() const override {
    absl::MutexLock lock(&mutex_);
    return state_;
  }
  MachineConfig config() const override { return config_; }
  GuestMemory& memory() override { return *memory_; }
  BalloonPort* balloon() override { return nullptr; }
  void SetListener(std::function<void(const MachineEvent&)>) override {}
  int64_t started_ns() const override { return 5678; }
  int64_t first_entry_ns() const override { return 1234; }

 private:
  absl::Status Enter(MachineState state) {
    absl::MutexLock lock(&mutex_);
    if (state_ == MachineState::kStopped && state != MachineState::kStopped) {
      return absl::FailedPreconditionError("the machine is stopped");
    }
    state_ = state;
    return absl::OkStatus();
  }

  const MachineConfig config_;
  const std::unique_ptr<GuestMemory> memory_;
  MovableMachine* const moving_;
  MachineDisks* const disks_;
  mutable absl::Mutex mutex_;
  MachineState state_ ABSL_GUARDED_BY(mutex_) = MachineState::kRunning;
  bool hold_pause_ ABSL_GUARDED_BY(mutex_) = false;
  bool pausing_ ABSL_GUARDED_BY(mutex_) = false;
  bool reset_starves_ ABSL_GUARDED_BY(mutex_) = false;
  std::string reset_error_ ABSL_GUARDED_BY(mutex_) = "kernel vmlinuz is gone";
  std::vector<std::string> operations_ ABSL_GUARDED_BY(mutex_);
};

// A balloon whose guest moves one step each time somebody looks, or never.
class FakeBalloon final : public BalloonPort {
 public:
  void SetFrozen(bool frozen) {
    absl::MutexLock lock(&mutex_);
    frozen_ = frozen;
  }
  // How long a look takes.
  void SetCost(absl::Duration cost) {
    absl::MutexLock lock(&mutex_);
    cost_ = cost;
  }
  // How often somebody looked.
  uint64_t looks() const {
    absl::MutexLock lock(&mutex_);
    return looks_;
  }
  BalloonFigures Figures() const override {
    absl::MutexLock lock(&mutex_);
    ++looks_;
    for (const MonotonicTime end = MonotonicTime::Now() + cost_; MonotonicTime::Now() < end;) {
    }
    if (!frozen_ && actual_ != target_) {
      actual_ = actual_ < target_ ? std::min(actual_ + kStep, target_)
                                  : std::max(actual_ - std::min(actual_, kStep), target_);
    }
    return {.target_bytes = target_,
            .actual_bytes = actual_,
            .statistics = {{"free-memory", 4096}},
            .statistics_time = statistics_time_};
  }
  bool inhibited() const override { return false; }
  absl::Status RequestStatistics() override {
    absl::MutexLock lock(&mutex_);
    statistics_time_ = MonotonicTime::Now();
    return absl::OkStatus();
  }
  absl::Status SetTarget(uint64_t bytes) override {
    absl::MutexLock lock(&mutex_);
    target_ = bytes;
    return absl::OkStatus();
  }

 private:
  static constexpr uint64_t kStep = 1 << 20;
  mutable absl::Mutex mutex_;
  uint64_t target_ ABSL_GUARDED_BY(mutex_) = 0;
  mutable uint64_t actual_ ABSL_GUARDED_BY(mutex_) = 0;
  bool frozen_ ABSL_GUARDED_BY(mutex_) = false;
  mutable uint64_t looks_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration cost_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  MonotonicTime statistics_time_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::InfinitePast();
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FAKE_MACHINE_H_
