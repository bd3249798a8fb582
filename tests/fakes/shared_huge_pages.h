// Transparent huge pages of shared memory for a test, allowed on this machine and forbidden again.
#ifndef FERRITE_TESTS_FAKES_SHARED_HUGE_PAGES_H_
#define FERRITE_TESTS_FAKES_SHARED_HUGE_PAGES_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "base/fd.h"

namespace ferrite {

// Makes transparent_hugepage/shmem_enabled `advise` for as long as it lives, where a memfd could have no huge pages
// before; a process of its own gives the setting back, whatever becomes of the test. One at a time on a machine:
// whoever comes second waits, also in another process. Other programs see the setting, too, so its tests need the tag
// `exclusive` besides `no-sandbox`.
class SharedHugePages {
 public:
  SharedHugePages();
  SharedHugePages(const SharedHugePages&) = delete;
  SharedHugePages& operator=(const SharedHugePages&) = delete;
  ~SharedHugePages();

  // Why a memfd has no huge pages: text for a GTEST_SKIP() that nobody overlooks.
  const absl::Status& status() const { return status_; }

 private:
  // Changes the setting, and has `was` written again when `living_` is closed.
  void Allow(const std::string& was);

  Fd lock_;
  Fd living_;
  pid_t restorer_ = -1;
  absl::Status status_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_SHARED_HUGE_PAGES_H_
