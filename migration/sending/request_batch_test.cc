// How requests that are there at once are answered.
#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/page_range.h"
#include "migration/channel/page_sink.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/request_server.h"
#include "tests/fakes/fake_clock.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kPages = 64;
// Of each region: the first one's are sent one by one, the second one's by huge pages.
constexpr PendingPages::Shape kShapes[] = {{.pages = kPages}, {.pages = kPages, .pages_per_unit = 8}};

// Of which pages were asked for, all at once, before the destination left.
class AskedSink final : public UrgentSink {
 public:
  explicit AskedSink(std::vector<PageRange> requests) : requests_(requests.begin(), requests.end()) {}

  absl::Status Flush() override {
    flushes_ += gathered_ > 0 ? 1 : 0;
    gathered_ = 0;
    return absl::OkStatus();
  }
  uint64_t gathered_bytes() const override { return gathered_; }
  bool full() const override { return false; }
  void PreferLatency() override {}
  absl::Status AwaitPlaced(uint64_t) override { return absl::OkStatus(); }
  void Shutdown() override {}
  const std::string& peer() const override { return peer_; }
  absl::StatusOr<PageRange> NextRequest() override {
    if (requests_.empty()) {
      return absl::OutOfRangeError("that is all");
    }
    const PageRange next = requests_.front();
    requests_.pop_front();
    return next;
  }
  bool HasRequest() override { return true; }

  int flushes() const { return flushes_; }

 private:
  absl::Status Add(const PageHeader& header, std::span<const uint8_t> bytes) override {
    gathered_ += kPageHeaderBytes + header.following_bytes();
    return bytes.empty() ? absl::OkStatus() : absl::UnimplementedError("bytes");
  }

  std::deque<PageRange> requests_;
  const std::string peer_ = "the destination";
  uint64_t gathered_ = 0;
  int flushes_ = 0;
};

// What is asked for together goes together, but for what is on its way.
TEST(RequestBatchTest, RequestsThatAreThereAreAnsweredTogether) {
  const FakeClock clock;
  PendingPages pending(kShapes);
  for (size_t region = 0; region < pending.regions(); ++region) {
    pending.pending(region).SetRange(0, kPages);
  }
  RequestServer::Shared shared;
  RateLimiter limiter(0);
  SendFigures figures;
  ASSERT_EQ(pending.ClaimRequested(0, 22, 0).count, 1u);
  std::vector<PageRange> sent;
  AskedSink sink({{0, 23, 1}, {1, 40, 4}, {0, 20, 1}, {0, 24, 1}, {1, 36, 4}, {0, 21, 1}, {1, 48, 1}, {0, 22, 1}});
  RequestServer server(sink, pending, shared, limiter, clock, figures, {},
                       [&](PageSender& sender, const PageRange& run, uint64_t) {
                         sent.push_back(run);
                         return sender.SendZero(run);
                       });
  EXPECT_EQ(server.Serve(), absl::OkStatus());
  EXPECT_EQ(sent, (std::vector<PageRange>{{0, 20, 2}, {0, 23, 2}, {1, 32, 24}}));
  EXPECT_EQ(sink.flushes(), 1);
  EXPECT_EQ(figures.faults, 8u);
  EXPECT_EQ(figures.requested_pages, 2u + 2 + 24);
}

}  // namespace
}  // namespace ferrite::migration
