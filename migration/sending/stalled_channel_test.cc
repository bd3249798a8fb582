// A page channel of which the path stalls, in a round, while another one is in order.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/timed_mutex.h"
#include "migration/api/move_options.h"
#include "migration/channel/page_sink.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/page_source.h"
#include "tests/fakes/fake_part.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

constexpr std::array<uint64_t, 1> kPages = {4096};
constexpr std::array<uint64_t, 1> kPagesPerUnit = {1};
constexpr absl::Duration kSoon = absl::Seconds(30);

// Takes nothing, or all. Threads: any.
class PatientSink final : public PageSink {
 public:
  explicit PatientSink(bool stalls) : stalls_(stalls) {}

  // When it stalls: until it has no more patience than that.
  absl::Status Flush() override {
    const TimedMutexLock lock(&mutex_);
    gathered_ = 0;
    const auto is_over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !stalls_ || shut_down_ || (!patience_.empty() && patience_.back() <= PageSource::kStalled);
    };
    if (!mutex_.AwaitFor(absl::Condition(&is_over), kSoon)) {
      return absl::DeadlineExceededError("nobody hurried");
    }
    return stalls_ ? absl::UnavailableError("it stopped reading") : absl::OkStatus();
  }
  uint64_t gathered_bytes() const override { return gathered_; }
  bool full() const override { return gathered_ >= (1 << 20); }
  void PreferLatency() override {}
  absl::Status AwaitPlaced(uint64_t) override { return absl::OkStatus(); }
  void Shutdown() override {
    const TimedMutexLock lock(&mutex_);
    shut_down_ = true;
  }
  void SetPatience(absl::Duration patience) override {
    const TimedMutexLock lock(&mutex_);
    patience_.push_back(patience);
  }
  const std::string& peer() const override { return peer_; }

  std::vector<absl::Duration> patience() const {
    const TimedMutexLock lock(&mutex_);
    return patience_;
  }

 private:
  absl::Status Add(const PageHeader& header, std::span<const uint8_t>) override {
    gathered_ += kPageHeaderBytes + header.following_bytes();
    return absl::OkStatus();
  }

  const bool stalls_;
  const std::string peer_ = "the destination";
  uint64_t gathered_ = 0;
  mutable TimedMutex mutex_;
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<absl::Duration> patience_ ABSL_GUARDED_BY(mutex_);
};

class StalledChannelTest : public testing::Test {
 protected:
  // A channel that stalls or not, and one in order.
  void Open(bool stalls) {
    PageSource::Channels sinks;
    auto first = std::make_unique<PatientSink>(stalls);
    first_ = first.get();
    auto second = std::make_unique<PatientSink>(/*stalls=*/false);
    second_ = second.get();
    sinks.page.push_back(std::move(first));
    sinks.page.push_back(std::move(second));
    sinks.urgent.push_back(std::move(urgent_.sink));
    source_ = *PageSource::Create(AnyHost(), {&part_}, kPagesPerUnit, std::move(sinks), options_, figures_,
                                  [](const absl::Status&) {});
    ASSERT_EQ(source_->Start(), absl::OkStatus());
  }

  FakePart part_{{kPages[0]}};
  MoveOptions options_;
  SendFigures figures_;
  PairEnds urgent_ = MakePairEnds();
  PatientSink* first_ = nullptr;
  PatientSink* second_ = nullptr;
  std::unique_ptr<PageSource> source_;
};

// It has claimed what nobody else sends.
TEST_F(StalledChannelTest, IsGivenUpWhenTheOtherOneIsDone) {
  Open(/*stalls=*/true);
  const absl::Status status = source_->SendRound(0, [] { return false; });
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(first_->patience().front(), PageSource::kStalled);
}

TEST_F(StalledChannelTest, PatienceIsAsBeforeWhenTheRoundIsOver) {
  Open(/*stalls=*/false);
  source_->SetPatience(absl::Seconds(7));
  ASSERT_EQ(source_->SendRound(0, [] { return false; }), absl::OkStatus());
  EXPECT_EQ(first_->patience().back(), absl::Seconds(7));
  EXPECT_EQ(second_->patience().back(), absl::Seconds(7));
}

// What is read there goes to storage.
TEST_F(StalledChannelTest, HasItsTimeWhereADiskComesAlong) {
  part_.is_mirrored = true;
  Open(/*stalls=*/false);
  ASSERT_EQ(source_->SendRound(0, [] { return false; }), absl::OkStatus());
  EXPECT_TRUE(first_->patience().empty());
  EXPECT_TRUE(second_->patience().empty());
}

}  // namespace
}  // namespace ferrite::migration
