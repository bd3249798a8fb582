// Reasons for which a balloon must not give memory back to the host now.
#ifndef FERRITE_DEVICES_BALLOON_BALLOON_INHIBITOR_H_
#define FERRITE_DEVICES_BALLOON_BALLOON_INHIBITOR_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"

namespace ferrite {

// Counts reasons: a move of the machine, a snapshot, a device that pinned memory. Threads: any.
class BalloonInhibitor {
 public:
  // One reason, held as long as this lives. Move-only; destroyed before the inhibitor.
  class Token {
   public:
    Token() = default;
    Token(Token&& other) noexcept : inhibitor_(std::exchange(other.inhibitor_, nullptr)), id_(other.id_) {}
    Token& operator=(Token&& other) noexcept;
    ~Token() { Release(); }

    // Gives the reason up. When it was the last, the postponed work has been asked for when this returns.
    void Release();

   private:
    friend class BalloonInhibitor;
    Token(BalloonInhibitor* inhibitor, uint64_t id) : inhibitor_(inhibitor), id_(id) {}

    BalloonInhibitor* inhibitor_ = nullptr;
    uint64_t id_ = 0;
  };

  // `released` is called, with no lock held, when the last reason is gone; a new one may have come by then.
  explicit BalloonInhibitor(std::function<void()> released) : released_(std::move(released)) {}

  // From when this returns until the token is released nothing runs in RunUnlessInhibited(); it waits for what does.
  [[nodiscard]] Token Inhibit(std::string reason);
  bool inhibited() const;
  // Oldest first.
  std::vector<std::string> reasons() const;

  // Calls `work` and returns true, unless a reason is held. `work` is short and does not call the inhibitor.
  bool RunUnlessInhibited(absl::FunctionRef<void()> work);

 private:
  void Release(uint64_t id);

  const std::function<void()> released_;
  mutable absl::Mutex mutex_;
  std::map<uint64_t, std::string> reasons_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BALLOON_BALLOON_INHIBITOR_H_
