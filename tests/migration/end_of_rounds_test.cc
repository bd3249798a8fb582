// What a kind of channel does beside its frames ends with the rounds (PageSink::EndRounds()): before the destination
// drops a page, and no memory comes by rounds from then on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "migration/api/move_options.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/cut_channels.h"
#include "tests/migration/move_harness.h"
#include "tests/migration/two_parts.h"

namespace ferrite::migration {
namespace {

constexpr int kChannels = 2;

// What passes, a letter each: pages of memory, their end on a channel, discards of pages, the package.
class Course {
 public:
  Course() {
    plan_.on_frame = [this](const PageHeader& header) {
      if (header.type == PageFrameType::kEndRounds) {
        Note('E');
      } else if (header.type == PageFrameType::kPages && header.region == 0) {
        Note('M');
      }
    };
    plan_.on_message = [this](const Message& message) {
      if (const auto* const discard = std::get_if<message::Discard>(&message);
          discard != nullptr && !discard->ranges.empty()) {
        Note('D');
      } else if (std::holds_alternative<message::Package>(message)) {
        Note('P');
      }
    };
  }
  FakeMoveSetup Setup() {
    return {.wrap = [this](PairRendezvous place) { return WithCuts(std::move(place), plan_); }};
  }
  bool HasMemory() const {
    const absl::MutexLock lock(&mutex_);
    return course_.find('M') != std::string::npos;
  }
  // Until the package went out.
  std::string Taken() const {
    const absl::MutexLock lock(&mutex_);
    return course_.substr(0, course_.find('P'));
  }

 private:
  void Note(char what) {
    const absl::MutexLock lock(&mutex_);
    course_.push_back(what);
  }

  CutPlan plan_;
  mutable absl::Mutex mutex_;
  std::string course_ ABSL_GUARDED_BY(mutex_);
};

void ExpectEndsBeforeDiscards(const std::string& course) {
  const size_t end = course.find('E');
  ASSERT_NE(end, std::string::npos) << course;
  EXPECT_NE(course.find('D'), std::string::npos) << "nothing was tested: " << course;
  EXPECT_GT(course.find('D'), end) << course;
  EXPECT_EQ(std::count(course.begin() + static_cast<std::ptrdiff_t>(end),
                       course.begin() + static_cast<std::ptrdiff_t>(course.find('D')), 'E'),
            kChannels)
      << "each channel: " << course;
  EXPECT_EQ(course.find('M', end), std::string::npos) << "memory by rounds behind their end: " << course;
}

// Post-copy is asked for when memory is being copied.
std::function<void(Source&, const MoveProgress&)> TurnToPostcopy(const Course& course) {
  return [&course, round = uint32_t{0}](Source& source, const MoveProgress& progress) mutable {
    if (round == 0 && course.HasMemory()) {
      round = progress.round;
    }
    if (round != 0 && progress.round > round) {
      (void)source.StartPostcopy();
    }
  };
}

TEST(EndOfRoundsTest, ComesBeforeTheFirstDiscard) {
  Course course;
  FakeMove move(course.Setup());
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy,
                                           .downtime_limit = absl::Nanoseconds(1),
                                           .max_bandwidth = 200 << 20,
                                           .channels = kChannels},
                                          TurnToPostcopy(course));
  ExpectArrived(move, result, 1000);
  ExpectEndsBeforeDiscards(course.Taken());
}

// The rounds over mirrored parts go on behind it.
TEST(EndOfRoundsTest, ComesBeforeTheFirstDiscardWithMirroredParts) {
  Course course;
  TwoParts parts(course.Setup(), /*mirrored=*/true);
  parts.move().port().restless = true;
  const FakeMoveResult result = parts.Move(
      {.mode = MoveMode::kPrecopy, .max_bandwidth = 100 << 20, .channels = kChannels}, TurnToPostcopy(course));
  parts.ExpectMoved(result);
  ExpectEndsBeforeDiscards(course.Taken());
}

}  // namespace
}  // namespace ferrite::migration
