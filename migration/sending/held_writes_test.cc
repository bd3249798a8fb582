#include "migration/sending/held_writes.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/sending/dirty_chunks.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kChunk = 4096;

class HeldWritesTest : public testing::Test {
 protected:
  HeldWritesTest() {
    chunks_->Done(chunks_->Take(0, 100, 100));
    held_.Hold();
  }
  std::vector<uint64_t> TakeCopied() {
    std::vector<uint64_t> answers;
    held_.TakeCopied(answers);
    return answers;
  }

  std::unique_ptr<DirtyChunks> chunks_ = *DirtyChunks::Create({.bytes = 100 * kChunk, .granularity = kChunk});
  HeldWrites held_{*chunks_, 512, 4096};
};

using Tickets = std::vector<uint64_t>;

TEST_F(HeldWritesTest, MarksWhatItDoesNotHold) {
  std::vector<uint64_t> none;
  held_.LetGo(none);
  EXPECT_TRUE(none.empty());
  HeldWrites::Outcome outcome = held_.Wrote(0, 512);
  EXPECT_EQ(outcome.ticket, 0u);
  EXPECT_TRUE(outcome.is_news);
  EXPECT_FALSE(held_.Wrote(0, 512).is_news);
  EXPECT_EQ(chunks_->Count().dirty, kChunk);
  EXPECT_FALSE(held_.Get(0).has_value());
  EXPECT_EQ(held_.held_in_all(), 0u);
}

TEST_F(HeldWritesTest, ASmallWriteIntoWhatIsCleanGoesAlone) {
  const uint64_t ticket = held_.Wrote(kChunk + 100, 500).ticket;
  const HeldWrites::Wanted wanted = held_.Get(0).value();
  EXPECT_EQ(wanted.ticket, ticket);
  EXPECT_TRUE(wanted.is_alone);
  EXPECT_FALSE(wanted.is_started);
  EXPECT_EQ(wanted.offset, kChunk);
  EXPECT_EQ(wanted.bytes, 1024u);
  EXPECT_EQ(wanted.run.first, 1u);
  held_.Start(0);
  EXPECT_TRUE(held_.Get(0)->is_started);
  EXPECT_TRUE(TakeCopied().empty());
  chunks_->Done(wanted.run);
  held_.CopiedAlone(ticket);
  EXPECT_EQ(TakeCopied(), Tickets{ticket});
  EXPECT_TRUE(TakeCopied().empty());
}

TEST_F(HeldWritesTest, WhatOneCopiesAloneIsNotWhatAnotherWaitsFor) {
  const uint64_t first = held_.Wrote(kChunk, 512).ticket;
  const uint64_t second = held_.Wrote(kChunk + 1024, 512).ticket;
  EXPECT_FALSE(held_.Get(1)->is_alone);
  chunks_->Done(held_.Get(0)->run);
  held_.CopiedAlone(first);
  EXPECT_EQ(TakeCopied(), Tickets{first});
  const ChunkRun run = chunks_->Take(0, 100, 100);
  held_.Copied(run, first);
  EXPECT_TRUE(TakeCopied().empty()) << "it was taken before the second";
  chunks_->Done(run);
  EXPECT_EQ(TakeCopied(), Tickets{second});
}

TEST_F(HeldWritesTest, AChunkThatIsDirtyAgainCountsWhenItWasTakenAfterwards) {
  (void)chunks_->Mark(0, 1);
  const uint64_t ticket = held_.Wrote(0, 512).ticket;
  const ChunkRun run = chunks_->Take(0, 100, 100);
  const uint64_t last = held_.last_ticket();
  const uint64_t later = held_.Wrote(0, 512).ticket;
  chunks_->Done(run);
  held_.Copied(run, last);
  EXPECT_EQ(TakeCopied(), Tickets{ticket});
  EXPECT_EQ(held_.Get(0)->ticket, later);
}

TEST_F(HeldWritesTest, PartsAreCopiedInAnyOrder) {
  const uint64_t ticket = held_.Wrote(0, 10 * kChunk).ticket;
  EXPECT_FALSE(held_.Get(0)->is_alone);
  const ChunkRun a = chunks_->Take(0, 100, 5);
  const ChunkRun b = chunks_->Take(0, 100, 5);
  chunks_->Done(b);
  held_.Copied(b, ticket);
  EXPECT_TRUE(TakeCopied().empty());
  EXPECT_EQ(held_.Get(0)->first, 0u);
  chunks_->Done(a);
  held_.Copied(a, ticket);
  EXPECT_EQ(TakeCopied(), Tickets{ticket});
}

TEST_F(HeldWritesTest, LetsAllGo) {
  const uint64_t first = held_.Wrote(0, 512).ticket;
  const uint64_t second = held_.Wrote(kChunk, 512).ticket;
  const uint64_t third = held_.Wrote(2 * kChunk, 2 * kChunk).ticket;
  held_.Start(0);
  std::vector<uint64_t> answers;
  held_.LetGo(answers);
  EXPECT_EQ(answers, (Tickets{first, second, third}));
  EXPECT_EQ(chunks_->Count().in_flight, kChunk) << "what was begun";
  EXPECT_EQ(chunks_->Count().dirty, 3 * kChunk);
  EXPECT_FALSE(held_.holds());
  EXPECT_EQ(held_.Wrote(0, 512).ticket, 0u);
  held_.Hold();
  EXPECT_TRUE(held_.holds());
  EXPECT_EQ(held_.Wrote(50 * kChunk, 512).ticket, third + 1);
}

TEST_F(HeldWritesTest, AFullTableHoldsNoMore) {
  for (size_t i = 0; i < HeldWrites::kMost; ++i) {
    EXPECT_NE(held_.Wrote(0, 512).ticket, 0u);
  }
  EXPECT_EQ(held_.Wrote(kChunk, 512).ticket, 0u);
  EXPECT_EQ(chunks_->FindDirty(1, 100), 1u);
}

TEST_F(HeldWritesTest, TheEndOfTheDiskIsTheEndOfAWrite) {
  EXPECT_EQ(held_.Wrote(100 * kChunk, 512).ticket, 0u);
  EXPECT_EQ(held_.Wrote(0, 0).ticket, 0u);
  EXPECT_NE(held_.Wrote(99 * kChunk, ~uint64_t{0}).ticket, 0u);
  EXPECT_EQ(held_.Get(0)->end, 100u);
  EXPECT_EQ(held_.Get(0)->bytes, kChunk);
}

TEST_F(HeldWritesTest, TellsWhenTheOldestWasSeen) {
  const MonotonicTime now = MonotonicTime() + absl::Hours(1);
  EXPECT_EQ(held_.See(now), MonotonicTime::InfiniteFuture());
  (void)held_.Wrote(0, 512);
  EXPECT_EQ(held_.See(now), now);
  (void)held_.Wrote(kChunk, 512);
  EXPECT_EQ(held_.See(now + absl::Seconds(1)), now);
  EXPECT_EQ(held_.See(now + absl::Seconds(2)), now);
  const HeldWrites::Wanted oldest = held_.Get(0).value();
  chunks_->Done(oldest.run);
  held_.CopiedAlone(oldest.ticket);
  (void)TakeCopied();
  EXPECT_EQ(held_.See(now + absl::Seconds(3)), now + absl::Seconds(1));
}

}  // namespace
}  // namespace ferrite::migration
