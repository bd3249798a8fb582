#include "tests/migration/landing.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/status.h"

namespace ferrite::migration {
namespace {

constexpr Landing kLandings[] = {
    {"Huge", MemoryBacking::kAnonymous, true, true, false},
    {"HugeWithoutMove", MemoryBacking::kAnonymous, true, false, false},
    {"Small", MemoryBacking::kAnonymous, false, true, false},
    {"Memfd", MemoryBacking::kMemfd, false, true, false},
    {"HugeMemfd", MemoryBacking::kMemfd, true, true, true},
    {"Hugetlb", MemoryBacking::kHugetlb2M, false, true, true},
};

// The same everywhere, which std::hash is not (FNV-1a).
uint64_t HashOf(absl::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) {
    hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  }
  return hash;
}

}  // namespace

std::span<const Landing> AllLandings() { return kLandings; }

const Landing& LandingNamed(absl::string_view name) {
  for (const Landing& landing : kLandings) {
    if (landing.name == name) {
      return landing;
    }
  }
  FERRITE_CHECK(false && "no such landing");
}

const Landing& LandingOfTest() {
  if (const char* const wanted = std::getenv("FERRITE_LANDING"); wanted != nullptr) {
    return LandingNamed(wanted);
  }
  std::vector<const Landing*> any;
  for (const Landing& landing : kLandings) {
    if (!landing.asks_host_more) {
      any.push_back(&landing);
    }
  }
  const testing::TestInfo* const test = testing::UnitTest::GetInstance()->current_test_info();
  if (test == nullptr) {
    return *any.front();
  }
  const Landing& landing = *any[HashOf(std::string(test->test_suite_name()) + "." + test->name()) % any.size()];
  testing::Test::RecordProperty("landing", landing.name);
  return landing;
}

LandingHost::LandingHost(const Landing& landing, uint64_t bytes) {
  if (!landing.move) {
    old_.emplace();
  }
  if (landing.backing == MemoryBacking::kHugetlb2M) {
    // What the next move lands in is there before that of a move that failed is gone.
    pool_.emplace(2 * bytes / HostPageBytes(landing.backing));
  }
  if (landing.backing == MemoryBacking::kMemfd && landing.thp) {
    shared_.emplace();
  }
}

absl::Status LandingHost::status() const {
  return pool_.has_value() ? pool_->status() : shared_.has_value() ? shared_->status() : absl::OkStatus();
}

}  // namespace ferrite::migration
