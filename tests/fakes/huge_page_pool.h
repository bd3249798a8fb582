// Real 2 MiB huge pages for a test, reserved on this machine and given back.
#ifndef FERRITE_TESTS_FAKES_HUGE_PAGE_POOL_H_
#define FERRITE_TESTS_FAKES_HUGE_PAGE_POOL_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/fd.h"

namespace ferrite {

// Adds pages to /proc/sys/vm/nr_hugepages for as long as it lives. One at a time on a machine: whoever comes second
// waits, also in another process. Its tests need the tag `no-sandbox`.
class HugePagePool {
 public:
  explicit HugePagePool(uint64_t pages);
  HugePagePool(const HugePagePool&) = delete;
  HugePagePool& operator=(const HugePagePool&) = delete;
  ~HugePagePool();

  // Why there are not that many free huge pages: text for a GTEST_SKIP() that nobody overlooks.
  const absl::Status& status() const { return status_; }

 private:
  Fd lock_;
  uint64_t before_ = 0;
  absl::Status status_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_HUGE_PAGE_POOL_H_
