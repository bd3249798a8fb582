// Whose turn it is to change the directories of a base (run_dir.h).
#ifndef FERRITE_VMM_CONTROL_BASE_LOCK_H_
#define FERRITE_VMM_CONTROL_BASE_LOCK_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/directory.h"
#include "base/fd.h"

namespace ferrite {

// Held by whoever changes this user's directories in a base. The file goes with the lock, so that nothing is left.
class BaseLock {
 public:
  // `base` outlives the lock, under whatever owner. UNAVAILABLE when somebody else holds it for 10 s.
  static absl::StatusOr<BaseLock> Take(const Fd& base);
  BaseLock(BaseLock&&) = default;
  BaseLock& operator=(BaseLock&&) = delete;
  ~BaseLock();

 private:
  BaseLock(int base, std::string name, Fd file) : base_(base), name_(std::move(name)), file_(std::move(file)) {}

  const int base_;
  const std::string name_;
  Fd file_;
};

// The lock goes first.
struct LockedBase {
  Fd directory;
  BaseLock lock;
};

// Makes the base and locks it. A monitor that ends may take one away that it made and that nobody uses.
absl::StatusOr<LockedBase> MakeAndLockBase(const std::string& base, std::vector<MadeDirectory>& made);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_BASE_LOCK_H_
