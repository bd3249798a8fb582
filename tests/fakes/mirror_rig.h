// A mirror between two disks in memory, in virtual time.
#ifndef FERRITE_TESTS_FAKES_MIRROR_RIG_H_
#define FERRITE_TESTS_FAKES_MIRROR_RIG_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/sending/mirror.h"
#include "tests/fakes/fake_block_io.h"

namespace ferrite::migration {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
// The granularity as it comes.
inline constexpr uint64_t kChunk = 64 * kKiB;

// The test's thread is the mirror's, and the guest's.
class MirrorRig final : private Mirror::Listener {
 public:
  struct Shape {
    FakeBlockIo::Shape source;
    FakeBlockIo::Shape target;
    MirrorOptions options;
  };
  static FakeBlockIo::Shape Disk(const char* name, uint64_t bytes) { return {.name = name, .bytes = bytes}; }
  explicit MirrorRig(const MirrorOptions& options, uint64_t bytes = 4 << 20)
      : MirrorRig(Shape{Disk("source", bytes), Disk("target", bytes), options}) {}
  explicit MirrorRig(const Shape& shape) : source(shape.source), target(shape.target), options(shape.options) {}
  // Ends what is in flight.
  ~MirrorRig() {
    if (mirror != nullptr) {
      (void)mirror->Cancel();
      for (int i = 0; i < 1000 && !mirror->idle(); ++i) {
        EndAll();
      }
      EXPECT_EQ(mirror->Wrote(0, 1), 0u) << "is over, and holds a write";
      EXPECT_TRUE(held.empty()) << "writes that nobody answers";
    }
  }

  // After what the test has put into the disks.
  void Start() {
    absl::StatusOr<std::unique_ptr<Mirror>> made = Mirror::Create(source, target, options, *this);
    ASSERT_TRUE(made.ok()) << made.status();
    mirror = *std::move(made);
    Turn();
  }
  void Turn() {
    turn_soon = false;
    next = mirror->Turn(now);
    ++turns;
  }
  // Lets what is in flight end, in its order.
  void EndAll() {
    target.EndAll();
    source.EndAll();
  }
  // `each` of time passes for each time that all in flight ends, and what the mirror waits for where nothing is. False
  // when it is not `done` after that many turns.
  bool RunUntil(const std::function<bool()>& done, int most_turns = 10'000,
                absl::Duration each = absl::Milliseconds(1)) {
    for (int i = 0; i < most_turns; ++i) {
      if (done()) {
        return true;
      }
      if (source.ready() + target.ready() > 0) {
        now += each;
        EndAll();
      } else if (!turn_soon && next > now) {
        if (next == MonotonicTime::InfiniteFuture()) {
          return false;  // nothing more will come
        }
        now = next;
      }
      Turn();
    }
    return false;
  }
  bool RunUntil(MirrorState state, int most_turns = 10'000) {
    return RunUntil([&] { return figures().state == state; }, most_turns);
  }
  // Until nothing more comes by itself.
  void Settle(int most_turns = 10'000) {
    (void)RunUntil([] { return false; }, most_turns);
    EXPECT_TRUE(!turn_soon && next == MonotonicTime::InfiniteFuture()) << "it goes on and on";
  }
  // ready → completed, and both are equal. What failed is copied before.
  void Complete() {
    ASSERT_TRUE(RunUntil([&] {
      return figures().state == MirrorState::kReady && figures().drain_time < absl::InfiniteDuration();
    })) << MirrorStateName(figures().state)
        << " " << figures().cause;
    ASSERT_TRUE(mirror->Drain().ok());
    ASSERT_TRUE(RunUntil(MirrorState::kCompleted)) << MirrorStateName(figures().state) << " " << figures().cause;
    ExpectEqual();
  }
  void ExpectEqual() const {
    EXPECT_EQ(source.content.Difference(target.content, source.bytes()), source.bytes()) << "differs there";
  }

  // What is there before the mirror begins: each page looks different, and no byte is zero.
  static std::vector<uint8_t> Data(uint64_t offset, uint64_t bytes, uint8_t salt = 0) {
    std::vector<uint8_t> data(bytes);
    for (uint64_t i = 0; i < bytes;) {
      const uint64_t count = std::min(bytes - i, 512 - (offset + i) % 512);
      std::memset(data.data() + i, static_cast<int>(1 + ((offset + i) / 512 * 7 + salt) % 255), count);
      i += count;
    }
    return data;
  }
  void Fill(uint64_t offset, uint64_t bytes) { source.content.Write(offset, Data(offset, bytes).data(), bytes); }
  // The guest's; returns the ticket, or 0.
  uint64_t Write(uint64_t offset, uint64_t bytes, uint8_t salt = 1) {
    source.content.Write(offset, Data(offset, bytes, salt).data(), bytes);
    return Tell(offset, bytes);
  }
  uint64_t Discard(uint64_t offset, uint64_t bytes) {
    source.content.Zero(offset, bytes);
    return Tell(offset, bytes);
  }
  uint64_t Tell(uint64_t offset, uint64_t bytes) {
    const uint64_t ticket = mirror->Wrote(offset, bytes);
    if (ticket != 0) {
      EXPECT_TRUE(held.insert(ticket).second) << "a ticket twice";
    }
    return ticket;
  }
  MirrorFigures figures() const { return mirror->figures(now); }

  FakeBlockIo source;
  FakeBlockIo target;
  MirrorOptions options;
  MonotonicTime now = MonotonicTime() + absl::Hours(1);
  MonotonicTime next;
  bool turn_soon = false;
  int turns = 0;
  int asks = 0;  // TurnSoon()
  std::set<uint64_t> held;
  std::function<void(uint64_t)> answered;
  std::unique_ptr<Mirror> mirror;

 private:
  void TurnSoon() override {
    turn_soon = true;
    ++asks;
  }
  void Answer(uint64_t ticket) override {
    EXPECT_EQ(held.erase(ticket), 1u) << "nobody waits for " << ticket;
    if (answered) {
      answered(ticket);
    }
  }
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_MIRROR_RIG_H_
