// Two ends of one process for the tests of what every Verbs keeps to: over tests/fakes/rdma_fabric.h, or over the
// device at the address in FERRITE_TEST_RDMA (//tests/nested:rdma_nested_test).
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_VERBS_RIG_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_VERBS_RIG_H_

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/thread_maker.h"
#include "gtest/gtest.h"
#include "migration/channel/rdma/ibverbs.h"
#include "migration/channel/rdma/verbs.h"
#include "tests/fakes/rdma_fabric.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {

inline constexpr size_t kPage = 4096;

// The address of the device; empty for the fabric.
inline std::string TestDevice() {
  const char* const address = std::getenv("FERRITE_TEST_RDMA");
  return address == nullptr ? "" : address;
}

// What is waited for in a test that goes well.
inline MonotonicTime Soon() { return RealClock().Now() + absl::Seconds(20); }

// Whether the descriptor is readable now, or within `limit`.
inline bool IsReadable(int fd, absl::Duration limit = absl::ZeroDuration()) {
  std::array<pollfd, 1> polled = {pollfd{.fd = fd, .events = POLLIN, .revents = 0}};
  return RealClock().PollFor(polled, limit) == 1;
}

// Memory of pages, each of its own byte from `first` on, and registered.
class TestMemory {
 public:
  TestMemory(VerbsDomain& domain, size_t pages, MemoryAccess access, uint8_t first = 0)
      : mapping_(*Mapping::Create("memory of a test", pages * kPage, MAP_PRIVATE | MAP_ANONYMOUS)) {
    for (size_t i = 0; i < mapping_.size(); i++) {
      mapping_.data()[i] = first == 0 ? 0 : static_cast<uint8_t>(first + i / kPage + i % 251);
    }
    absl::StatusOr<std::unique_ptr<RegisteredMemory>> registered = domain.Register(mapping_.span(), access);
    EXPECT_TRUE(registered.ok()) << registered.status();
    FERRITE_CHECK(registered.ok());
    registered_ = *std::move(registered);
  }

  uint8_t* data() const { return mapping_.data(); }
  std::span<uint8_t> span() const { return mapping_.span(); }
  LocalPiece Local(size_t offset, size_t bytes) const {
    return {.memory = registered_.get(), .bytes = mapping_.span().subspan(offset, bytes)};
  }
  RemotePiece Remote(size_t offset) const {
    return {.address = reinterpret_cast<uintptr_t>(data()) + offset, .key = registered_->remote_key()};
  }
  void Deregister() { registered_.reset(); }
  bool IsZero() const {
    return std::ranges::all_of(mapping_.span(), [](uint8_t byte) { return byte == 0; });
  }

 private:
  Mapping mapping_;
  std::unique_ptr<RegisteredMemory> registered_;
};

// As many completions as come of `count` in time, in their order.
inline std::vector<Completion> Await(QueuePair& pair, size_t count, absl::Duration limit = absl::Seconds(20)) {
  std::vector<Completion> all;
  const MonotonicTime deadline = RealClock().Now() + limit;
  while (all.size() < count) {
    std::array<Completion, 8> some;
    EXPECT_TRUE(pair.Arm().ok());
    const absl::StatusOr<size_t> taken = pair.TakeCompletions({some.data(), std::min(some.size(), count - all.size())});
    EXPECT_TRUE(taken.ok()) << taken.status();
    if (!taken.ok()) break;
    std::move(some.begin(), some.begin() + static_cast<ptrdiff_t>(*taken), std::back_inserter(all));
    if (*taken == 0 && !IsReadable(pair.fd(), deadline - RealClock().Now())) break;
  }
  EXPECT_EQ(all.size(), count);
  return all;
}

// The parameter is which one.
class VerbsTest : public testing::TestWithParam<std::string> {
 protected:
  struct Pair {
    std::unique_ptr<QueuePair> source;
    std::unique_ptr<QueuePair> destination;
  };

  VerbsTest() : cancel_(*EventFd::Create()), verbs_(MakeVerbs()) {
    source_ = *verbs_->Open(host_, Verbs::End::kThere, Soon(), cancel_);
    destination_ = *verbs_->Open(host_, Verbs::End::kHere, Soon(), cancel_);
    listener_ = *destination_->Listen();
  }

  // One that is connected, where each side grants all that there is.
  Pair Connect(const QueuePairTerms& here = kAllGranted, absl::string_view greeting = "a greeting") {
    Pair pair;
    const Thread connects = StartOrDie("connects", [&] {
      absl::StatusOr<std::unique_ptr<QueuePair>> connected =
          source_->Connect(listener_->port(), greeting, kAllGranted, Soon(), cancel_);
      EXPECT_TRUE(connected.ok()) << connected.status();
      if (connected.ok()) pair.source = *std::move(connected);
    });
    absl::StatusOr<std::unique_ptr<QueuePair>> accepted = listener_->Accept(greeting, here, Soon(), cancel_);
    EXPECT_TRUE(accepted.ok()) << accepted.status();
    if (accepted.ok()) pair.destination = *std::move(accepted);
    return pair;
  }

  std::unique_ptr<Verbs> MakeVerbs(const Clock& clock = RealClock()) {
    if (TestDevice().empty()) return std::make_unique<RdmaFabric>(clock);
    return *LoadIbverbs(clock, threads_);
  }

  static constexpr QueuePairTerms kAllGranted = {.remote_write = true, .remote_read = true};

  const std::string host_ = TestDevice().empty() ? "127.0.0.1" : TestDevice();
  const EventFd cancel_;
  ThreadMaker threads_;
  const std::unique_ptr<Verbs> verbs_;
  std::shared_ptr<VerbsDomain> source_;
  std::shared_ptr<VerbsDomain> destination_;
  std::unique_ptr<QueuePairListener> listener_;
};

// The places where those of this program are played.
inline std::vector<std::string> Places() { return {TestDevice().empty() ? "Fabric" : "Device"}; }
inline std::string PlaceName(const testing::TestParamInfo<std::string>& info) { return info.param; }

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_VERBS_RIG_H_
