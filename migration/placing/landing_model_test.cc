// Landing in any order, with a model beside it: rounds, zeroes and discards, then channels that bring blocks, parts of
// them, what is asked for and what was lost at the source, and are cut in the middle of it, while a guest reads and
// writes all of it. Each kind of memory, with and without UFFD_FEATURE_MOVE. FERRITE_LANDING_SEEDS: how many moves
// (docs/testing.md).
#include "migration/placing/landing_model.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "base/open_userfault.h"
#include "base/thread.h"
#include "memory/memory_region.h"
#include "migration/placing/memory_placer.h"
#include "migration/placing/userfault.h"
#include "tests/fakes/shared_huge_pages.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlocks = 6;
constexpr uint64_t kPages = kBlocks * kBlockPages + 100;  // the last block is none
constexpr int kChannels = 2;

struct Kind {
  const char* name;
  MemoryBacking backing;
  bool thp;
  bool move;
};

class LandingModelTest : public testing::TestWithParam<Kind> {
 protected:
  void Start(uint64_t seed) {
    random_.seed(seed);
    if (GetParam().backing == MemoryBacking::kMemfd && GetParam().thp) {
      host_.emplace();
      if (!host_->status().ok()) {
        GTEST_SKIP() << host_->status();
      }
    }
    auto region = MemoryRegion::Create("ram", GuestAddress(0), kPages * kPageBytes, GetParam().backing);
    ASSERT_TRUE(region.ok()) << region.status();
    placer_.reset();
    region_ = *std::move(region);
    ASSERT_EQ(region_->SetThp(GetParam().thp), absl::OkStatus());
    states_ = std::make_unique<PageStates>(kPages);
    placer_ = MemoryPlacer::Create(*region_, *states_, RealClock());
    // A block of nothing but zero pages, one of none, and mixtures.
    model_ = std::make_unique<LandingModel>(kPages);
    for (uint64_t page = 0; page < kPages; ++page) {
      const uint64_t block = page / kBlockPages;
      model_->SetZero(page, block == 1 || (block > 2 && Below(16) == 0));
    }
  }

  uint64_t Below(uint64_t limit) { return std::uniform_int_distribution<uint64_t>(0, limit - 1)(random_); }

  // Before the switchover: some of it comes, some more than once, and some of that is out of date.
  void PlayRounds() {
    const uint64_t most = Below(2) == 0 ? kPages : Below(kPages);
    for (uint64_t page = 0; page < most;) {
      const PageRun run = model_->RunFrom(page, 1 + Below(64));
      page += run.count + (Below(8) == 0 ? Below(700) : 0);
      if (const bool lost = model_->is_lost(run.first); lost || model_->is_zero(run.first)) {
        ASSERT_EQ(lost ? placer_->Lose(run) : placer_->FillZero(run), absl::OkStatus());
        continue;
      }
      const auto target = placer_->FillTarget(run);
      ASSERT_TRUE(target.ok()) << target.status();
      std::vector<uint8_t> buffer(run.count * kPageBytes);
      model_->Write(target->empty() ? std::span<uint8_t>(buffer) : *target, run);
      ASSERT_EQ(placer_->Filled(run, buffer.data()), absl::OkStatus());
    }
    for (uint64_t i = Below(40); i > 0; --i) {
      const uint64_t first = Below(4) == 0 ? Below(kBlocks) * kBlockPages : Below(kPages);
      const uint64_t count = std::min(kPages - first, Below(4) == 0 ? kBlockPages : 1 + Below(8));
      ASSERT_EQ(placer_->Discard({.first = first, .count = count}), absl::OkStatus());
      // The guest has written it at the source.
      for (uint64_t page = first; page < first + count; ++page) {
        model_->Change(page, Below(8) == 0);
      }
    }
  }

  // R9: some pages are lost at the source before they are sent for the last time; in a round they come so.
  void LosePages(bool in_round) {
    for (uint64_t i = Below(30); i > 0; --i) {
      const uint64_t page = Below(kPages);
      ASSERT_TRUE(!in_round || placer_->Lose({.first = page, .count = 1}).ok());
      if (in_round || states_->Get(page) == PageState::kAbsent) {
        model_->SetLost(page);
      }
    }
  }

  // A claimed run comes, or the connection ends in the middle of it.
  void Bring(const Placer::Claimed& claimed, Showing showing, bool cut) {
    const PageRun run = claimed.run;
    const auto target = placer_->StageTarget(run, claimed.wanted ? Showing::kAtOnce : showing);
    ASSERT_TRUE(target.ok()) << target.status();
    std::vector<uint8_t> buffer(run.count * kPageBytes);
    const std::span<uint8_t> into = target->empty() ? std::span<uint8_t>(buffer) : *target;
    model_->Write(into, run);
    if (cut) {
      // Half of it, which ends with half a page.
      const size_t came = into.size() / 2 - kPageBytes / 2;
      std::fill(into.begin() + static_cast<ptrdiff_t>(came), into.end(), 0);
      placer_->Abandon(run);
    } else {
      ASSERT_EQ(placer_->Publish(run, buffer.data()), absl::OkStatus());
    }
  }

  // What a channel brings of `run`, as PageReceiver does it.
  void Receive(PageRun run, Showing showing, bool cut) {
    if (model_->is_lost(run.first)) {
      const auto news = placer_->PublishPoison(run);
      ASSERT_TRUE(news.ok()) << news.status();
      return;
    }
    if (showing == Showing::kGathered) {
      placer_->BeginGathering(run.first);
    }
    if (model_->is_zero(run.first)) {
      const auto news = placer_->PublishZero(run, showing);
      ASSERT_TRUE(news.ok()) << news.status();
      return;
    }
    for (PageRun rest = run; rest.count > 0;) {
      const Placer::Claimed claimed = placer_->Claim(rest);
      const uint64_t done = std::max<uint64_t>(claimed.run.count, 1);
      rest = {.first = rest.first + done, .count = rest.count - done};
      if (claimed.run.count > 0) {
        ASSERT_NO_FATAL_FAILURE(Bring(claimed, showing, cut));
      }
    }
  }

  // One bulk channel: every block that is its own, in order or with gaps, until nothing of it is missing. Where it is
  // cut, what was gathered is shown (~PageReceiver), and the next connection goes on from there.
  void PlayChannel(int index, uint64_t seed) {
    std::mt19937_64 random(seed);
    for (bool again = true; again;) {
      again = false;
      for (uint64_t block = static_cast<uint64_t>(index); block <= kBlocks; block += kChannels) {
        const uint64_t end = std::min(kPages, (block + 1) * kBlockPages);
        for (uint64_t page = block * kBlockPages; page < end;) {
          const PageRun run = model_->RunFrom(page, std::min(1 + random() % 64, end - page));
          page += run.count;
          if (random() % 16 == 0) {
            continue;
          }
          const bool cut = random() % 64 == 0;
          ASSERT_NO_FATAL_FAILURE(Receive(run, Showing::kGathered, cut));
          if (cut) {
            ASSERT_EQ(placer_->EndGathering(run.first), absl::OkStatus());
          }
        }
        ASSERT_EQ(placer_->EndGathering(block * kBlockPages), absl::OkStatus());
        for (uint64_t page = block * kBlockPages; page < end; ++page) {
          const PageState state = states_->Get(page);
          again |= state == PageState::kAbsent || state == PageState::kRequested;
        }
      }
    }
  }

  void ServeFaults() {
    std::array<Fault, 8> faults;
    while (!over_) {
      pollfd ready{userfault_->fd(), POLLIN, 0};
      if (poll(&ready, 1, 10) <= 0) {
        continue;
      }
      const auto count = userfault_->Read(faults);
      ASSERT_TRUE(count.ok()) << count.status();
      for (size_t i = 0; i < *count; ++i) {
        const uint64_t page =
            (faults[i].address - reinterpret_cast<uint64_t>(region_->guest_mapping().data())) / kPageBytes;
        if (states_->Request(page)) {
          ASSERT_NO_FATAL_FAILURE(Receive({.first = page, .count = 1}, Showing::kAtOnce, /*cut=*/false));
          continue;
        }
        switch (states_->Get(page)) {
          case PageState::kPresent:
            ASSERT_EQ(placer_->ResolvePresent(page), absl::OkStatus());
            break;
          case PageState::kReceiving:
          case PageState::kAwaited:
            ASSERT_TRUE(placer_->ShowWanted(page).ok());
            break;
          case PageState::kPoisoned:
            ASSERT_EQ(placer_->ResolvePoisoned(page), absl::OkStatus());
            break;
          case PageState::kAbsent:
          case PageState::kRequested:
            break;
        }
      }
    }
  }

  void PlayGuest(uint64_t seed, const std::atomic<bool>& stop) {
    std::mt19937_64 random(seed);
    while (!stop) {
      model_->Touch(region_->guest_mapping(), random() % kPages, random());
    }
  }

  void PlayMove(uint64_t seed) {
    ASSERT_NO_FATAL_FAILURE(Start(seed));
    if (IsSkipped()) {
      return;
    }
    for (uint64_t rounds = 1 + Below(3); rounds > 0; --rounds) {
      ASSERT_NO_FATAL_FAILURE(LosePages(/*in_round=*/true));
      ASSERT_NO_FATAL_FAILURE(PlayRounds());
    }
    auto userfault = Userfault::Create(OpenUserfault,
                                       Userfault::WantedFeatures() & ~(GetParam().move ? 0 : Userfault::kMoveFeature));
    ASSERT_TRUE(userfault.ok()) << userfault.status();
    userfault_ = *std::move(userfault);
    ASSERT_NO_FATAL_FAILURE(LosePages(/*in_round=*/false));
    ASSERT_EQ(placer_->Arm(*userfault_), absl::OkStatus());
    ASSERT_EQ(placer_->ShowPoisoned(nullptr), absl::OkStatus());
    over_ = false;
    std::atomic<bool> stop = false;
    std::vector<Thread> faults;
    std::vector<Thread> guests;
    std::vector<Thread> channels;
    for (uint64_t i = 0; i < 2; ++i) {
      faults.push_back(StartOrDie("fault", [&] { ServeFaults(); }));
      guests.push_back(StartOrDie("guest", [&, i] { PlayGuest(seed * 37 + i, stop); }));
    }
    for (int i = 0; i < kChannels; ++i) {
      channels.push_back(StartOrDie("channel", [&, i] { PlayChannel(i, seed * 41 + static_cast<uint64_t>(i)); }));
    }
    channels.clear();
    // A fault thread may be at the last one.
    over_ = true;
    faults.clear();
    EXPECT_EQ(states_->missing(), 0u) << "R4";
    EXPECT_EQ(placer_->Disarm(), absl::OkStatus());
    placer_->Compact([] { return false; });
    stop = true;
    guests.clear();
    for (uint64_t page = 0; page < kPages; ++page) {
      model_->Touch(region_->guest_mapping(), page, 1);
    }
  }

  std::mt19937_64 random_;
  std::optional<SharedHugePages> host_;
  std::unique_ptr<MemoryRegion> region_;
  std::unique_ptr<PageStates> states_;
  std::unique_ptr<MemoryPlacer> placer_;
  std::unique_ptr<Userfault> userfault_;
  std::unique_ptr<LandingModel> model_;
  std::atomic<bool> over_ = false;
};

TEST_P(LandingModelTest, GuestFindsWhatTheSourceHadOrWhatItWrote) {
  uint64_t seeds = 12;
  if (const char* wanted = std::getenv("FERRITE_LANDING_SEEDS"); wanted != nullptr) {
    ASSERT_TRUE(absl::SimpleAtoi(wanted, &seeds));
  }
  for (uint64_t seed = 1; seed <= seeds && !HasFailure() && !IsSkipped(); ++seed) {
    SCOPED_TRACE(seed);
    ASSERT_NO_FATAL_FAILURE(PlayMove(seed));
  }
}

INSTANTIATE_TEST_SUITE_P(Memory, LandingModelTest,
                         testing::Values(Kind{"Huge", MemoryBacking::kAnonymous, true, true},
                                         Kind{"HugeWithoutMove", MemoryBacking::kAnonymous, true, false},
                                         Kind{"Small", MemoryBacking::kAnonymous, false, true},
                                         Kind{"Memfd", MemoryBacking::kMemfd, false, true},
                                         Kind{"HugeMemfd", MemoryBacking::kMemfd, true, true}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace ferrite::migration
