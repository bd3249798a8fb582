// Named threads that are always joined.
#ifndef FERRITE_VMM_BASE_THREAD_H_
#define FERRITE_VMM_BASE_THREAD_H_

#include <functional>
#include <string>
#include <thread>

namespace ferrite {

// Runs `body` on a thread of its own, named `name` (the kernel keeps 15 characters of it: `ps -L`, gdb and perf show
// them), with all signals blocked but those that a fault raises. Joined by Join() or with its owner, who makes `body`
// return first. Move-only.
class Thread {
 public:
  Thread() = default;
  Thread(std::string name, std::function<void()> body);
  Thread(Thread&&) = default;
  Thread& operator=(Thread&& other) noexcept;
  ~Thread() { Join(); }

  bool joinable() const { return thread_.joinable(); }
  bool IsCurrent() const { return thread_.get_id() == std::this_thread::get_id(); }
  // The pthread handle, for pthread_kill().
  std::thread::native_handle_type handle() { return thread_.native_handle(); }
  void Join();

 private:
  std::thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_BASE_THREAD_H_
