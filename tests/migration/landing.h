// Where a guest lands in a test: the kinds of memory, and what the kernel can do with them.
#ifndef FERRITE_TESTS_MIGRATION_LANDING_H_
#define FERRITE_TESTS_MIGRATION_LANDING_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "memory/memory_region.h"
#include "tests/fakes/huge_page_pool.h"
#include "tests/fakes/old_userfault.h"
#include "tests/fakes/shared_huge_pages.h"

namespace ferrite::migration {

struct Landing {
  const char* name;
  MemoryBacking backing;
  bool thp;             // the memory is to have transparent huge pages
  bool move;            // the kernel has UFFD_FEATURE_MOVE
  bool asks_host_more;  // huge pages that this host must be made to give, for a while
};

std::span<const Landing> AllLandings();
const Landing& LandingNamed(absl::string_view name);

// Of all that ask nothing of the host, the one for the test that runs: the same in each run, another one for another
// test. FERRITE_LANDING=NAME is one for all tests.
const Landing& LandingOfTest();

// The host as a landing needs it, as long as this lives.
class LandingHost {
 public:
  // `bytes`: what the guest has.
  LandingHost(const Landing& landing, uint64_t bytes);

  // Why this host cannot be that.
  absl::Status status() const;

 private:
  std::optional<WithoutUserfaultMove> old_;
  std::optional<HugePagePool> pool_;
  std::optional<SharedHugePages> shared_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_MIGRATION_LANDING_H_
