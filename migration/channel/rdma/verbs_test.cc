#include "migration/channel/rdma/verbs.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/mapping.h"
#include "migration/channel/rdma/verbs_rig.h"

namespace ferrite::migration {
namespace {

using VerbsWorkTest = VerbsTest;

TEST_P(VerbsWorkTest, WritesArriveByTheSendBehindThem) {
  Pair pair = Connect();
  const TestMemory from(*source_, 16, MemoryAccess::kLocal, 1);
  const TestMemory to(*destination_, 16, MemoryAccess::kRemoteWrite);
  const TestMemory message(*destination_, 1, MemoryAccess::kLocal);
  ASSERT_TRUE(pair.destination->PostReceive(7, message.Local(0, 64)).ok());
  // Of any size and at any address.
  const std::vector<std::pair<size_t, size_t>> pieces = {
      {0, 1}, {1, 4095}, {kPage, 3 * kPage}, {4 * kPage, 12 * kPage}};
  for (size_t i = 0; i < pieces.size(); i++) {
    const auto [offset, bytes] = pieces[i];
    ASSERT_TRUE(pair.source->PostWrite(i, from.Local(offset, bytes), to.Remote(offset)).ok());
  }
  ASSERT_TRUE(pair.source->PostSend(99, from.Local(100, 64)).ok());

  const std::vector<Completion> arrived = Await(*pair.destination, 1);
  ASSERT_EQ(arrived.size(), 1u);
  EXPECT_TRUE(arrived[0].status.ok()) << arrived[0].status;
  EXPECT_EQ(arrived[0].id, 7u);
  EXPECT_EQ(arrived[0].kind, WorkKind::kReceive);
  EXPECT_EQ(arrived[0].bytes, 64u);
  EXPECT_EQ(std::memcmp(message.data(), from.data() + 100, 64), 0);
  EXPECT_TRUE(std::ranges::equal(to.span(), from.span()));

  const std::vector<Completion> done = Await(*pair.source, 5);
  ASSERT_EQ(done.size(), 5u);
  for (size_t i = 0; i < done.size(); i++) {
    EXPECT_TRUE(done[i].status.ok()) << done[i].status;
    EXPECT_EQ(done[i].id, i < 4 ? i : 99);
    EXPECT_EQ(done[i].kind, i < 4 ? WorkKind::kWrite : WorkKind::kSend);
  }
  EXPECT_FALSE(pair.source->broken());
  EXPECT_FALSE(pair.destination->broken());
}

TEST_P(VerbsWorkTest, ReadsBringWhatIsThere) {
  Pair pair = Connect();
  const TestMemory into(*destination_, 4, MemoryAccess::kLocal);
  const TestMemory from(*source_, 4, MemoryAccess::kRemoteRead, 1);
  ASSERT_TRUE(pair.destination->PostRead(1, into.Local(0, kPage), from.Remote(0)).ok());
  ASSERT_TRUE(pair.destination->PostRead(2, into.Local(kPage, 3 * kPage), from.Remote(kPage)).ok());
  const std::vector<Completion> done = Await(*pair.destination, 2);
  ASSERT_EQ(done.size(), 2u);
  EXPECT_TRUE(done[0].status.ok() && done[1].status.ok()) << done[0].status << done[1].status;
  EXPECT_EQ(done[1].kind, WorkKind::kRead);
  EXPECT_TRUE(std::ranges::equal(into.span(), from.span()));
}

// Why nothing is punched under a registration, nor dropped (R8): it succeeds, and is lost.
TEST_P(VerbsWorkTest, WhatIsWrittenWhereAPageHasGoneSinceIsLost) {
  Pair pair = Connect();
  const TestMemory from(*source_, 3, MemoryAccess::kLocal, 1);
  const TestMemory to(*destination_, 3, MemoryAccess::kRemoteWrite);
  ASSERT_EQ(madvise(to.data() + kPage, kPage, MADV_DONTNEED), 0);
  ASSERT_TRUE(pair.source->PostWrite(0, from.Local(0, 3 * kPage), to.Remote(0)).ok());
  const std::vector<Completion> done = Await(*pair.source, 1);
  ASSERT_EQ(done.size(), 1u);
  EXPECT_TRUE(done[0].status.ok()) << done[0].status;
  const auto page = [](const TestMemory& memory, size_t number) {
    return memory.span().subspan(number * kPage, kPage);
  };
  EXPECT_TRUE(std::ranges::equal(page(to, 0), page(from, 0)));
  EXPECT_TRUE(std::ranges::all_of(page(to, 1), [](uint8_t byte) { return byte == 0; }));
  EXPECT_TRUE(std::ranges::equal(page(to, 2), page(from, 2)));
}

// Registered memory that was never touched is there, as zeros, and takes what is written.
TEST_P(VerbsWorkTest, MemoryIsThereOnceItIsRegistered) {
  const Mapping mapping = *Mapping::Create("memory of a test", 4 * kPage, MAP_PRIVATE | MAP_ANONYMOUS);
  std::array<unsigned char, 4> there = {};
  ASSERT_EQ(mincore(mapping.data(), mapping.size(), there.data()), 0);
  EXPECT_EQ(std::ranges::count_if(there, [](unsigned char page) { return (page & 1) != 0; }), 0);
  for (const MemoryAccess access : {MemoryAccess::kRemoteWrite, MemoryAccess::kRemoteRead, MemoryAccess::kLocal}) {
    ASSERT_EQ(madvise(mapping.data(), mapping.size(), MADV_DONTNEED), 0);
    const auto registered = destination_->Register(mapping.span(), access);
    ASSERT_TRUE(registered.ok()) << registered.status();
    ASSERT_EQ(mincore(mapping.data(), mapping.size(), there.data()), 0);
    EXPECT_EQ(std::ranges::count_if(there, [](unsigned char page) { return (page & 1) != 0; }), 4);
  }
}

// What is not memory of that key with that right is refused, nothing changes, and both queue pairs are broken.
struct Refusal {
  MemoryAccess access = MemoryAccess::kRemoteWrite;
  uint32_t key_off = 0;
  ptrdiff_t address_off = 0;
  QueuePairTerms terms = {.remote_write = true, .remote_read = true};
};

class VerbsRefusalTest : public VerbsTest {
 protected:
  void ExpectRefused(const Refusal& refusal) {
    Pair pair = Connect(refusal.terms);
    const TestMemory from(*source_, 2, MemoryAccess::kLocal, 1);
    const TestMemory to(*destination_, 2, refusal.access);
    RemotePiece piece = to.Remote(0);
    piece.key += refusal.key_off;
    piece.address += static_cast<uint64_t>(refusal.address_off);
    ASSERT_TRUE(pair.source->PostWrite(5, from.Local(0, 2 * kPage), piece).ok());
    ExpectBroken(pair, 5, WorkKind::kWrite);
    EXPECT_TRUE(to.IsZero());
  }

  static void ExpectBroken(const Pair& pair, uint64_t id, WorkKind kind) {
    const std::vector<Completion> done = Await(*pair.source, 1);
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(done[0].status.code(), absl::StatusCode::kUnavailable) << done[0].status;
    EXPECT_EQ(done[0].id, id);
    EXPECT_EQ(done[0].kind, kind);
    EXPECT_TRUE(pair.source->broken());
  }
};

TEST_P(VerbsRefusalTest, AWriteWithAWrongKey) { ExpectRefused({.key_off = 1}); }
TEST_P(VerbsRefusalTest, AWriteThatEndsBehindTheMemory) { ExpectRefused({.address_off = 1}); }
TEST_P(VerbsRefusalTest, AWriteThatBeginsBeforeTheMemory) { ExpectRefused({.address_off = -1}); }
TEST_P(VerbsRefusalTest, AWriteAtTheEndOfTheAddressSpace) { ExpectRefused({.address_off = PTRDIFF_MIN}); }
TEST_P(VerbsRefusalTest, AWriteToMemoryThatMayBeReadAlone) { ExpectRefused({.access = MemoryAccess::kRemoteRead}); }
TEST_P(VerbsRefusalTest, AWriteToMemoryOfThisSideAlone) { ExpectRefused({.access = MemoryAccess::kLocal}); }
TEST_P(VerbsRefusalTest, AWriteOverAQueuePairThatGrantsNone) {
  ExpectRefused({.terms = {.remote_write = false, .remote_read = true}});
}

TEST_P(VerbsRefusalTest, AReadOfMemoryThatMayBeWrittenAlone) {
  Pair pair = Connect();
  const TestMemory into(*source_, 1, MemoryAccess::kLocal);
  const TestMemory from(*destination_, 1, MemoryAccess::kRemoteWrite, 1);
  ASSERT_TRUE(pair.source->PostRead(6, into.Local(0, kPage), from.Remote(0)).ok());
  ExpectBroken(pair, 6, WorkKind::kRead);
  EXPECT_TRUE(into.IsZero());
}

TEST_P(VerbsRefusalTest, AReadOverAQueuePairThatGrantsNone) {
  Pair pair = Connect({.remote_write = true, .remote_read = false});
  const TestMemory into(*source_, 1, MemoryAccess::kLocal);
  const TestMemory from(*destination_, 1, MemoryAccess::kRemoteRead, 1);
  ASSERT_TRUE(pair.source->PostRead(6, into.Local(0, kPage), from.Remote(0)).ok());
  ExpectBroken(pair, 6, WorkKind::kRead);
  EXPECT_TRUE(into.IsZero());
}

TEST_P(VerbsRefusalTest, AWriteToMemoryThatIsRegisteredNoMore) {
  Pair pair = Connect();
  const TestMemory from(*source_, 1, MemoryAccess::kLocal, 1);
  TestMemory to(*destination_, 1, MemoryAccess::kRemoteWrite);
  const RemotePiece piece = to.Remote(0);
  to.Deregister();
  ASSERT_TRUE(pair.source->PostWrite(5, from.Local(0, kPage), piece).ok());
  ExpectBroken(pair, 5, WorkKind::kWrite);
  EXPECT_TRUE(to.IsZero());
}

TEST_P(VerbsRefusalTest, AWriteOverAQueuePairThatTheOtherSideHasBroken) {
  Pair pair = Connect();
  const TestMemory from(*source_, 1, MemoryAccess::kLocal, 1);
  const TestMemory to(*destination_, 1, MemoryAccess::kRemoteWrite);
  pair.destination->Break();
  ASSERT_TRUE(pair.source->PostWrite(5, from.Local(0, kPage), to.Remote(0)).ok());
  ExpectBroken(pair, 5, WorkKind::kWrite);
  EXPECT_TRUE(to.IsZero());
}

TEST_P(VerbsRefusalTest, AMessageThatIsLongerThanWhatWasPostedForIt) {
  Pair pair = Connect();
  const TestMemory from(*source_, 1, MemoryAccess::kLocal, 1);
  const TestMemory to(*destination_, 1, MemoryAccess::kLocal);
  ASSERT_TRUE(pair.destination->PostReceive(1, to.Local(0, 8)).ok());
  ASSERT_TRUE(pair.source->PostSend(5, from.Local(0, 9)).ok());
  const std::vector<Completion> received = Await(*pair.destination, 1);
  ASSERT_EQ(received.size(), 1u);
  EXPECT_FALSE(received[0].status.ok());
  ExpectBroken(pair, 5, WorkKind::kSend);
}

TEST_P(VerbsWorkTest, ASendWaitsForAReceive) {
  Pair pair = Connect();
  const TestMemory from(*source_, 1, MemoryAccess::kLocal, 1);
  const TestMemory to(*destination_, 1, MemoryAccess::kLocal);
  ASSERT_TRUE(pair.source->PostSend(5, from.Local(0, 8)).ok());
  EXPECT_FALSE(IsReadable(pair.source->fd(), absl::Milliseconds(50)));
  ASSERT_TRUE(pair.destination->PostReceive(1, to.Local(0, 8)).ok());
  const std::vector<Completion> received = Await(*pair.destination, 1);
  ASSERT_EQ(received.size(), 1u);
  EXPECT_TRUE(received[0].status.ok()) << received[0].status;
  EXPECT_TRUE(Await(*pair.source, 1)[0].status.ok());
}

TEST_P(VerbsWorkTest, MoreThanAQueuePairTakesIsRefusedAndHarmsNothing) {
  Pair pair = Connect();
  const TestMemory from(*source_, 1, MemoryAccess::kLocal, 1);
  const TestMemory to(*destination_, 1, MemoryAccess::kRemoteWrite);
  const TestMemory message(*destination_, 1, MemoryAccess::kLocal);
  for (size_t i = 0; i < QueuePair::kMostWork; i++) {
    ASSERT_TRUE(pair.source->PostWrite(i, from.Local(0, 64), to.Remote(0)).ok()) << i;
  }
  for (size_t i = 0; i < QueuePair::kMostReceives; i++) {
    ASSERT_TRUE(pair.destination->PostReceive(i, message.Local(0, 64)).ok()) << i;
  }
  EXPECT_EQ(pair.source->PostSend(1000, from.Local(0, 64)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pair.destination->PostReceive(1000, message.Local(0, 64)).code(), absl::StatusCode::kResourceExhausted);

  for (const Completion& done : Await(*pair.source, QueuePair::kMostWork)) ASSERT_TRUE(done.status.ok()) << done.status;
  for (size_t round = 0; round < 2 * QueuePair::kMostWork; round++) {
    ASSERT_TRUE(pair.source->PostWrite(round, from.Local(0, 64), to.Remote(0)).ok()) << round;
    ASSERT_EQ(Await(*pair.source, 1)[0].id, round);
  }
  ASSERT_TRUE(pair.source->PostSend(1001, from.Local(0, 64)).ok());
  EXPECT_EQ(Await(*pair.destination, 1)[0].id, 0u);
}

TEST_P(VerbsWorkTest, WhatIsUnderWayWhenAQueuePairBreaksEndsWithAnError) {
  Pair pair = Connect();
  const TestMemory from(*source_, 1, MemoryAccess::kLocal, 1);
  // Nobody takes the first one, and the others wait behind it.
  const std::vector<WorkKind> kinds = {WorkKind::kSend, WorkKind::kSend, WorkKind::kReceive};
  ASSERT_TRUE(pair.source->PostSend(0, from.Local(0, 8)).ok());
  ASSERT_TRUE(pair.source->PostSend(1, from.Local(0, 8)).ok());
  ASSERT_TRUE(pair.source->PostReceive(2, from.Local(64, 8)).ok());
  ASSERT_TRUE(pair.source->Arm().ok());
  EXPECT_FALSE(IsReadable(pair.source->fd()));
  EXPECT_FALSE(pair.source->broken());
  pair.source->Break();
  EXPECT_TRUE(pair.source->broken());
  EXPECT_TRUE(IsReadable(pair.source->fd(), absl::Seconds(20)));
  std::vector<Completion> done = Await(*pair.source, 3);
  ASSERT_EQ(done.size(), 3u);
  std::ranges::sort(done, {}, &Completion::id);
  for (size_t i = 0; i < 3; i++) {
    EXPECT_EQ(done[i].id, i);
    EXPECT_EQ(done[i].status.code(), absl::StatusCode::kUnavailable) << done[i].status;
    EXPECT_EQ(done[i].kind, kinds[i]);
  }
  EXPECT_EQ(pair.source->PostSend(3, from.Local(0, 8)).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(pair.source->PostReceive(3, from.Local(0, 8)).code(), absl::StatusCode::kUnavailable);
}

TEST_P(VerbsWorkTest, ABrokenOneIsReadableFromThenOn) {
  Pair pair = Connect();
  EXPECT_FALSE(IsReadable(pair.source->fd()));
  pair.source->Break();
  EXPECT_TRUE(IsReadable(pair.source->fd(), absl::Seconds(20)));
  ASSERT_TRUE(pair.source->Arm().ok());
  EXPECT_TRUE(IsReadable(pair.source->fd(), absl::Seconds(20)));
  std::array<Completion, 1> none;
  EXPECT_EQ(*pair.source->TakeCompletions(none), 0u);
}

TEST_P(VerbsWorkTest, OneThatIsDestroyedBreaksTheOther) {
  Pair pair = Connect();
  pair.destination.reset();
  EXPECT_TRUE(IsReadable(pair.source->fd(), absl::Seconds(20)));
  EXPECT_TRUE(pair.source->broken());
}

TEST_P(VerbsWorkTest, IsReadableForEachArmOnce) {
  Pair pair = Connect();
  const TestMemory from(*source_, 1, MemoryAccess::kLocal, 1);
  const TestMemory to(*destination_, 1, MemoryAccess::kRemoteWrite);
  for (uint64_t i = 0; i < 3; i++) {
    ASSERT_TRUE(pair.source->Arm().ok());
    EXPECT_FALSE(IsReadable(pair.source->fd()));
    ASSERT_TRUE(pair.source->PostWrite(i, from.Local(0, 64), to.Remote(0)).ok());
    EXPECT_TRUE(IsReadable(pair.source->fd(), absl::Seconds(20)));
    std::array<Completion, 4> done;
    ASSERT_EQ(*pair.source->TakeCompletions(done), 1u);
    EXPECT_EQ(done[0].id, i);
    // It stays so until then.
    EXPECT_TRUE(IsReadable(pair.source->fd()));
  }
}

INSTANTIATE_TEST_SUITE_P(Verbs, VerbsWorkTest, testing::ValuesIn(Places()), PlaceName);
INSTANTIATE_TEST_SUITE_P(Verbs, VerbsRefusalTest, testing::ValuesIn(Places()), PlaceName);

}  // namespace
}  // namespace ferrite::migration
