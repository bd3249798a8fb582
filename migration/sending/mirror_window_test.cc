#include "migration/sending/mirror_window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "absl/time/time.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kMost = 16 * kMiB;

// A disk that takes one operation of a MiB after the other, and adds `latency` to each.
struct Disk {
  absl::Duration each;
  absl::Duration latency;

  // Of operations that keep the window full.
  void Serve(MirrorWindow& window, int operations) const {
    for (int i = 0; i < operations; ++i) {
      const uint64_t before = std::max<uint64_t>(window.bytes() / kMiB, 1);
      EXPECT_FALSE(window.TakesMore(window.bytes(), 0));
      window.Note(kMiB, std::max(each * before, each + latency));
    }
  }
  double OfItsRate(const MirrorWindow& window) const {
    const uint64_t there = std::max<uint64_t>(window.bytes() / kMiB, 1);
    return std::min(1.0, absl::FDivDuration(each * there, each + latency));
  }
};

TEST(MirrorWindowTest, KeepsADiskBusyAndNoMore) {
  MirrorWindow window(kMiB, kMost);
  const Disk disk{.each = absl::Milliseconds(1)};
  disk.Serve(window, 200);
  EXPECT_GE(window.bytes(), 2 * kMiB);
  EXPECT_LE(window.bytes(), 4 * kMiB);
}

TEST(MirrorWindowTest, FillsWhatIsFarAway) {
  MirrorWindow window(kMiB, kMost);
  const Disk disk{.each = absl::Milliseconds(1), .latency = absl::Milliseconds(9)};
  disk.Serve(window, 500);
  EXPECT_EQ(disk.OfItsRate(window), 1.0) << window.bytes();
}

TEST(MirrorWindowTest, FollowsADiskThatChanges) {
  MirrorWindow window(kMiB, kMost);
  const Disk near{.each = absl::Milliseconds(1)};
  near.Serve(window, 200);
  const Disk far{.each = absl::Milliseconds(1), .latency = absl::Milliseconds(20)};
  far.Serve(window, 2000);
  EXPECT_GE(far.OfItsRate(window), 0.7) << window.bytes();
  near.Serve(window, 4000);
  EXPECT_LE(window.bytes(), 4 * kMiB);
}

TEST(MirrorWindowTest, OneThatIsNotFullDoesNotGrow) {
  MirrorWindow window(kMiB, kMost);
  const uint64_t first = window.bytes();
  for (int i = 0; i < 100; ++i) {
    window.Note(kMiB, absl::Milliseconds(1));
  }
  EXPECT_EQ(window.bytes(), first);
  EXPECT_FALSE(window.TakesMore(window.bytes(), 0));
  for (int i = 0; i < 100; ++i) {
    window.Note(kMiB, absl::Milliseconds(1));
  }
  EXPECT_GT(window.bytes(), first);
  EXPECT_LE(window.bytes(), 2 * first);
}

TEST(MirrorWindowTest, StaysWithinItsBounds) {
  MirrorWindow window(kMiB, kMost);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_FALSE(window.TakesMore(window.bytes(), 0));
    window.Note(kMiB, absl::ZeroDuration());
  }
  EXPECT_EQ(window.bytes(), kMost);
  for (int i = 0; i < 1000; ++i) {
    window.Note(kMiB, absl::Seconds(i));
    EXPECT_GE(window.bytes(), kMiB);
  }
  EXPECT_EQ(window.bytes(), kMiB);
  EXPECT_EQ(MirrorWindow(8 * kMiB, kMiB).bytes(), kMiB);
}

// What the guest writes waits until the disk has none of the mirror's: so that comes to be, each two windows.
TEST(MirrorWindowTest, LetsTheDiskEmptyWhileTheGuestWrites) {
  MirrorWindow window(2 * kMiB, kMost);
  uint64_t in_flight = 0;
  uint64_t guest_writes = 0;
  uint64_t since_empty = 0;
  int emptied = 0;
  for (int i = 0; i < 1000; ++i, ++guest_writes) {
    while (window.TakesMore(in_flight, guest_writes)) {
      window.Began(kMiB);
      in_flight += kMiB;
      since_empty += kMiB;
      ASSERT_LE(since_empty, 2 * window.bytes() + kMiB);
    }
    ASSERT_GT(in_flight, 0u) << "nothing comes that would start more";
    in_flight -= kMiB;
    if (in_flight == 0) {
      ++emptied;
      since_empty = 0;
    }
  }
  EXPECT_GE(emptied, 1000 / 5);
}

TEST(MirrorWindowTest, KeepsTheDiskBusyWhileTheGuestDoesNotWrite) {
  MirrorWindow window(2 * kMiB, kMost);
  uint64_t in_flight = 0;
  for (int i = 0; i < 1000; ++i) {
    while (window.TakesMore(in_flight, 7)) {
      window.Began(kMiB);
      in_flight += kMiB;
    }
    // Once: the writes before it began are news.
    if (i > 10) {
      ASSERT_EQ(in_flight, window.bytes());
    }
    in_flight -= kMiB;
  }
}

}  // namespace
}  // namespace ferrite::migration
