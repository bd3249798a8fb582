// Telling work that it is to end, from any thread, whatever it is waiting for.
#ifndef FERRITE_BASE_CANCEL_TOKEN_H_
#define FERRITE_BASE_CANCEL_TOKEN_H_

#include <pthread.h>

#include <atomic>
#include <functional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/timed_mutex.h"

namespace ferrite {

// Whether, and why, something is to end. The work polls event(), waits in WaitFor(), or has a Callback for what it
// waits in otherwise: what is cancelled before the work looks is not missed, and nobody has to drain anything.
//
// A token can begin anew with Renew(), where the work does: a connection that is made again. Who cancels does so for
// the generation that is on.
//
// Threads: any; Renew() when no work of the old generation is on any more. Follows std::stop_token (C++20,
// [thread.stoptoken]), which has no reason, and nothing to poll. Nothing but a large `act` takes memory.
class CancelToken {
 public:
  // RESOURCE_EXHAUSTED where there is no descriptor for it.
  static absl::StatusOr<CancelToken> Create();
  // Only before anybody else knows of it.
  CancelToken(CancelToken&& other) noexcept : event_(std::move(other.event_)) {}

  // The first reason of a generation counts; it is no OK. Runs the callbacks on this thread, without a lock.
  void Cancel(const absl::Status& reason);
  // Nothing is cancelled from here on. Callbacks that ran do not run again.
  void Renew();

  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  // OK while it is not cancelled.
  absl::Status reason() const;
  // Readable from Cancel() to Renew(). Nobody reads it.
  const EventFd& event() const { return event_; }
  // Whether it is cancelled; waits for that, not longer than `limit`.
  bool WaitFor(const Clock& clock, absl::Duration limit) const;

  // Calls `act` when the token is cancelled while this lives; at once where it is. `act` is called once, on the thread
  // of Cancel(). It does not wait, but for short locks that are held over no call of a token's, and may cancel other
  // tokens. The end of a Callback waits for an `act` that is on, but on its own thread.
  class Callback {
   public:
    Callback(CancelToken& token, std::function<void(const absl::Status& reason)> act);
    ~Callback();
    Callback(const Callback&) = delete;
    Callback& operator=(const Callback&) = delete;

   private:
    friend class CancelToken;

    CancelToken& token_;
    const std::function<void(const absl::Status&)> act_;
    // Its place among those that have not run, guarded by the token's lock: to have a place takes no memory.
    bool waits_ = false;
    Callback* previous_ = nullptr;
    Callback* next_ = nullptr;
  };

 private:
  explicit CancelToken(EventFd event) : event_(std::move(event)) {}
  void Append(Callback& callback) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(Callback& callback) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  EventFd event_;
  std::atomic<bool> cancelled_{false};
  mutable TimedMutex mutex_;
  absl::Status reason_ ABSL_GUARDED_BY(mutex_);
  Callback* first_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of those that have not run
  Callback* last_ ABSL_GUARDED_BY(mutex_) = nullptr;
  const Callback* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
  pthread_t runner_ ABSL_GUARDED_BY(mutex_){};
};

}  // namespace ferrite

#endif  // FERRITE_BASE_CANCEL_TOKEN_H_
