// Fault threads over memory and a userfaultfd of the kernel's, with a thread that reads the memory as a guest would;
// the test is the source.
#include "migration/placing/fault_server.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/monotonic.h"
#include "base/open_userfault.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/placing/asked_pages.h"
#include "migration/placing/memory_landing.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/page_sums.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBytes = 8 << 20;
constexpr absl::Duration kSoon = absl::Seconds(30);

class FaultServerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto memory = GuestMemory::Create(kBytes, MemoryBacking::kMemfd);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    landing_ = std::make_unique<MemoryLanding>(*memory_, RealClock());
    IncomingPart* const parts[] = {landing_.get()};
    placement_ = std::make_unique<Placement>(parts);
    auto requests = RequestQueue::Create();
    ASSERT_TRUE(requests.ok()) << requests.status();
    requests_.emplace(*std::move(requests));
    ASSERT_EQ(landing_->OfferFaults(OpenUserfault), absl::OkStatus());
    ASSERT_EQ(landing_->Arm(*requests_, 0), absl::OkStatus());
  }

  // A connection's fault threads, in place of those before.
  void Serve(bool connected, bool ask_again = false) {
    server_.reset();
    urgent_.clear();
    if (connected) {
      auto ends = MakeStreamPair();
      ASSERT_TRUE(ends.ok()) << ends.status();
      source_ = std::move(ends->first);
      urgent_.push_back(std::make_unique<StreamPageFeed>(std::move(ends->second)));
    }
    auto server = FaultServer::Create(host_.get(), *landing_, *placement_, *requests_, urgent_, waits_, figures_,
                                      {.on_failure =
                                           [this](const absl::Status& status) {
                                             const TimedMutexLock lock(&mutex_);
                                             failure_.Update(status);
                                           },
                                       .on_page = [] {}},
                                      ask_again);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  uint64_t NextRequest() {
    std::array<uint8_t, kPageHeaderBytes> bytes;
    EXPECT_TRUE(source_->ReadAll(bytes).ok());
    const auto header = DecodePageHeader(bytes);
    EXPECT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->type, PageFrameType::kRequest);
    EXPECT_EQ(header->count, 1u);
    return header->first_page;
  }
  void Answer(uint64_t page, uint8_t byte) {
    const std::vector<uint8_t> data(kPageBytes, byte);
    std::array<uint32_t, 1> sum;
    SumPages(data, sum);
    EXPECT_TRUE(source_->WriteAll(EncodePageHeader({.first_page = page, .count = 1})).ok());
    EXPECT_TRUE(source_->WriteAll({reinterpret_cast<const uint8_t*>(sum.data()), sizeof(sum)}).ok());
    EXPECT_TRUE(source_->WriteAll(std::span<const uint8_t>(data)).ok());
  }
  uint8_t At(uint64_t page) { return *(memory_->regions()[0]->guest_mapping().data() + page * kPageBytes); }
  absl::Status AwaitFailure() {
    const TimedMutexLock lock(&mutex_);
    const auto came = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !failure_.ok(); };
    EXPECT_TRUE(mutex_.AwaitFor(absl::Condition(&came), kSoon));
    return failure_;
  }

  // It stands still: nothing is overdue but where a test says so.
  FakeClock clock_;
  const TestHost host_{clock_};
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<MemoryLanding> landing_;
  std::unique_ptr<Placement> placement_;
  std::optional<RequestQueue> requests_;
  std::unique_ptr<Stream> source_;
  std::vector<std::unique_ptr<UrgentFeed>> urgent_;
  WaitAccounts waits_{[](pid_t) { return std::nullopt; },
                      [this](size_t region, uint64_t page) { return placement_->IsHere(region, page); }};
  ReceiveFigures figures_;
  TimedMutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<FaultServer> server_;
};

// R5: also of two that wait for one page.
TEST_F(FaultServerTest, PageIsAskedForOnceAndItsAnswerWakesWhoWaits) {
  Serve(/*connected=*/true);
  std::array<uint8_t, 2> got{};
  Thread first = StartOrDie("first", [&] { got[0] = At(9); });
  Thread second = StartOrDie("second", [&] { got[1] = At(9); });
  EXPECT_EQ(NextRequest(), 9u);
  Answer(9, 0x5a);
  first.Join();
  second.Join();
  EXPECT_EQ(got[0], 0x5a);
  EXPECT_EQ(got[1], 0x5a);
  // The request that follows is of another page.
  Thread third = StartOrDie("third", [&] { got[0] = At(30); });
  EXPECT_EQ(NextRequest(), 30u);
  Answer(30, 0x33);
  third.Join();
  EXPECT_EQ(got[0], 0x33);
  EXPECT_EQ(figures_.faults, 2u);
  server_.reset();
  ASSERT_EQ(waits_.Figures().size(), 1u);
  EXPECT_GE(waits_.Figures()[0].count, 2u);
}

// What a page channel that has stalled may have; not what has begun to come (R1).
TEST_F(FaultServerTest, PageOfWhichNothingComesIsAskedForOnceMore) {
  Serve(/*connected=*/true);
  std::array<uint8_t, 2> got{};
  Thread first = StartOrDie("first", [&] { got[0] = At(9); });
  EXPECT_EQ(NextRequest(), 9u);
  Thread second = StartOrDie("second", [&] { got[1] = At(30); });
  EXPECT_EQ(NextRequest(), 30u);
  ASSERT_TRUE(placement_->states(0).Claim(30));
  ASSERT_TRUE(clock_.AwaitWaiting(1));
  clock_.Advance(AskedPages::kPatience);
  EXPECT_EQ(NextRequest(), 9u);
  Answer(9, 0x5a);
  first.Join();
  EXPECT_EQ(got[0], 0x5a);
  // It is not asked for, but by who has it when that has failed.
  placement_->states(0).Abandon(30);
  Answer(30, 0x33);
  second.Join();
  EXPECT_EQ(figures_.faults, 2u);
}

// The userfaultfd's descriptors have shares of it.
TEST_F(FaultServerTest, PagesOfEachShareAreAskedFor) {
  ASSERT_GT(landing_->userfault().descriptors(), 1u);
  Serve(/*connected=*/true);
  constexpr uint64_t kPages = kBytes / kPageBytes;
  for (const uint64_t page : {uint64_t{0}, kPages / 4, kPages / 2, kPages - 1}) {
    uint8_t got = 0;
    Thread guest = StartOrDie("guest", [&] { got = At(page); });
    EXPECT_EQ(NextRequest(), page);
    Answer(page, 0x21);
    guest.Join();
    EXPECT_EQ(got, 0x21);
  }
}

// R4: what the guest waits for while the connection is lost is the first thing that the next one carries.
TEST_F(FaultServerTest, FaultsWithoutAConnectionAreAskedForByTheNextOne) {
  Serve(/*connected=*/false);
  uint8_t got = 0;
  Thread guest = StartOrDie("guest", [&] { got = At(12); });
  const MonotonicTime until = MonotonicTime::Now() + kSoon;
  while (placement_->states(0).Get(12) != PageState::kRequested && MonotonicTime::Now() < until) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  Serve(/*connected=*/true, /*ask_again=*/true);
  EXPECT_EQ(NextRequest(), 12u);
  Answer(12, 0x44);
  guest.Join();
  EXPECT_EQ(got, 0x44);
}

// R11.
TEST_F(FaultServerTest, RubbishIsAFailureAndNothingIsPlaced) {
  Serve(/*connected=*/true);
  const uint64_t missing = placement_->missing();
  EXPECT_TRUE(source_->WriteAll(std::vector<uint8_t>(kPageHeaderBytes, 0xee)).ok());
  EXPECT_TRUE(absl::IsDataLoss(AwaitFailure()));
  EXPECT_EQ(placement_->missing(), missing);
}

TEST_F(FaultServerTest, EndIsNoFailure) {
  Serve(/*connected=*/true);
  server_->End();
  source_.reset();
  server_.reset();
  const TimedMutexLock lock(&mutex_);
  EXPECT_TRUE(failure_.ok()) << failure_;
}

// What another part misses goes the same way; while there is no connection it is not kept.
TEST_F(FaultServerTest, PartsAskOverTheFirstChannel) {
  Serve(/*connected=*/false);
  requests_->Put({.first = 20, .count = 1});
  Serve(/*connected=*/true);
  requests_->Put({.first = 21, .count = 1});
  uint64_t asked = NextRequest();
  if (asked == 20) {
    asked = NextRequest();  // it had not been looked at before
  }
  EXPECT_EQ(asked, 21u);
}

}  // namespace
}  // namespace ferrite::migration
