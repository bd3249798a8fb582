// Mirrors for tests that wait for what they ask for.
#ifndef FERRITE_TESTS_FAKES_WAITING_MIRRORS_H_
#define FERRITE_TESTS_FAKES_WAITING_MIRRORS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "vmm/machine/machine_disks.h"
#include "vmm/mirror/mirrors.h"

namespace ferrite {

// What is asked for and may not be done yet. Copies are the same.
class Asked {
 public:
  MirrorPort::Done Done() const {
    return [state = state_](const absl::Status& result) {
      const absl::MutexLock lock(&state->mutex);
      state->result = Own(result);
      state->is_done = true;
    };
  }
  bool is_done() const {
    const absl::MutexLock lock(&state_->mutex);
    return state_->is_done;
  }
  // DEADLINE_EXCEEDED with words of its own after a minute.
  absl::Status Await() const {
    const absl::MutexLock lock(&state_->mutex);
    return state_->mutex.AwaitWithTimeout(absl::Condition(&state_->is_done), absl::Minutes(1))
               ? Own(state_->result)
               : absl::DeadlineExceededError("nothing comes of it");
  }

 private:
  // Copies share their words, and count that where the thread sanitizer does not look.
  static absl::Status Own(const absl::Status& status) { return absl::Status(status.code(), status.message()); }

  struct State {
    absl::Mutex mutex;
    bool is_done = false;
    absl::Status result;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

class WaitingMirrors final {
 public:
  WaitingMirrors(MachineDisks& disks, MirrorJob::Listener listener) : mirrors_(disks, std::move(listener)) {}

  Mirrors& mirrors() { return mirrors_; }

  absl::StatusOr<uint64_t> Start(const MirrorRequest& request) {
    const auto number = std::make_shared<uint64_t>(0);
    const absl::Status status = Wait([&](MirrorPort::Done done) {
      mirrors_.Start(request, [number, done = std::move(done)](const absl::StatusOr<uint64_t>& started) {
        *number = started.value_or(0);
        done(started.status());
      });
    });
    return status.ok() ? absl::StatusOr<uint64_t>(*number) : status;
  }
  std::vector<MirrorStatus> List() const { return mirrors_.List(); }
  absl::StatusOr<MirrorStatus> Status(absl::string_view disk) const { return mirrors_.Status(disk); }
  absl::Status Complete(absl::string_view disk) {
    return Wait([&](MirrorPort::Done done) { mirrors_.Complete(disk, std::move(done)); });
  }
  absl::Status Cancel(absl::string_view disk, bool keep_copy) {
    return Wait([&](MirrorPort::Done done) { mirrors_.Cancel(disk, keep_copy, std::move(done)); });
  }
  absl::Status Pause(absl::string_view disk) {
    return Wait([&](MirrorPort::Done done) { mirrors_.Pause(disk, std::move(done)); });
  }
  absl::Status Resume(absl::string_view disk) {
    return Wait([&](MirrorPort::Done done) { mirrors_.Resume(disk, std::move(done)); });
  }
  absl::Status SetMaxBandwidth(absl::string_view disk, uint64_t bytes_per_second) {
    return Wait([&](MirrorPort::Done done) { mirrors_.SetMaxBandwidth(disk, bytes_per_second, std::move(done)); });
  }
  absl::Status AllowsMove() const { return mirrors_.AllowsMove(); }
  void BeginEnd() { mirrors_.BeginEnd(); }

 private:
  static absl::Status Wait(const std::function<void(MirrorPort::Done)>& ask) {
    const Asked asked;
    ask(asked.Done());
    return asked.Await();
  }

  Mirrors mirrors_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_WAITING_MIRRORS_H_
