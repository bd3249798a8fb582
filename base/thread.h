// Named threads that are joined.
#ifndef FERRITE_BASE_THREAD_H_
#define FERRITE_BASE_THREAD_H_

#include <pthread.h>

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace ferrite {

// A thread of its own, joined by Join() or with its owner, who makes its body return first. Move-only.
class Thread {
 public:
  Thread() = default;
  // Runs `body` on a thread named `name` (the kernel keeps 15 characters of it: `ps -L`, gdb and perf show them), with
  // all signals blocked but those that a fault raises, and a stack of the process's default size. RESOURCE_EXHAUSTED
  // where the host has no room for one more; the message names the thread and what to look at.
  static absl::StatusOr<Thread> Start(std::string name, std::function<void()> body);
  Thread(Thread&& other) noexcept;
  Thread& operator=(Thread&& other) noexcept;
  ~Thread() { Join(); }

  bool joinable() const { return thread_.has_value(); }
  bool IsCurrent() const { return thread_.has_value() && pthread_equal(*thread_, pthread_self()) != 0; }
  // The pthread handle, for pthread_kill(). Of a thread that is joinable.
  pthread_t handle() const { return *thread_; }
  void Join();
  // Nobody waits for it any more: for one that cannot be made to return, and that owns all it uses (bounded_call.h).
  void Detach();

 private:
  explicit Thread(pthread_t thread) : thread_(thread) {}

  std::optional<pthread_t> thread_;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_THREAD_H_
