#include "migration/sending/dirty_chunks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "base/thread.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kChunk = 4096;

std::unique_ptr<DirtyChunks> Of(uint64_t bytes, uint64_t cluster_chunks = 1) {
  return *DirtyChunks::Create({.bytes = bytes, .granularity = kChunk, .cluster_chunks = cluster_chunks});
}

// All was copied once.
std::unique_ptr<DirtyChunks> Clean(uint64_t bytes) {
  std::unique_ptr<DirtyChunks> chunks = Of(bytes);
  chunks->Done(chunks->Take(0, chunks->chunks(), chunks->chunks()));
  return chunks;
}

TEST(DirtyChunksTest, CountsTheEndThatIsNoMultiple) {
  const std::unique_ptr<DirtyChunks> chunks = Of(10 * kChunk + 512);
  EXPECT_EQ(chunks->chunks(), 11u);
  EXPECT_EQ(chunks->Count().dirty, 10 * kChunk + 512);
  EXPECT_EQ(chunks->BytesOf(10, 1), 512u);
  EXPECT_EQ(chunks->BytesOf(0, 11), 10 * kChunk + 512);
  const ChunkRun run = chunks->Take(9, 11, 100);
  EXPECT_EQ(run.count, 2u);
  EXPECT_EQ(chunks->Count().in_flight, kChunk + 512);
  EXPECT_EQ(chunks->Count().dirty, 9 * kChunk);
  EXPECT_FALSE(chunks->Mark(11 * kChunk, 1)) << "past the end";
  EXPECT_TRUE(chunks->Mark(10 * kChunk + 511, 100)) << "the part that is there";
  EXPECT_EQ(chunks->Count().in_flight, kChunk);
  EXPECT_EQ(chunks->Count().dirty, 9 * kChunk + 512);
  EXPECT_EQ(chunks->Count().dirtied, 512u);
  chunks->Done(run);
  EXPECT_EQ(chunks->Count().in_flight, 0u);
  EXPECT_TRUE(chunks->Mark(0, ~uint64_t{0}));
  EXPECT_FALSE(chunks->Mark(0, 0));
  EXPECT_EQ(chunks->Count().dirtied, kChunk + 512);
  chunks->Failed(chunks->Take(9, 11, 100));
  EXPECT_EQ(chunks->Count().failed, kChunk + 512);
}

TEST(DirtyChunksTest, MarksEachChunkThatAWriteTouches) {
  const std::unique_ptr<DirtyChunks> chunks = Clean(100 * kChunk);
  EXPECT_TRUE(chunks->Mark(5 * kChunk - 1, 2));
  EXPECT_EQ(chunks->FindDirty(0, 100), 4u);
  EXPECT_EQ(chunks->Count().dirty, 2 * kChunk);
  EXPECT_FALSE(chunks->Mark(4 * kChunk, 2 * kChunk)) << "no news";
  EXPECT_TRUE(chunks->Mark(4 * kChunk, 2 * kChunk + 1));
  EXPECT_EQ(chunks->Count().dirty, 3 * kChunk);
}

TEST(DirtyChunksTest, AChunkInFlightIsNotTakenAgain) {
  const std::unique_ptr<DirtyChunks> chunks = Of(10 * kChunk);
  const ChunkRun run = chunks->Take(2, 10, 3);
  EXPECT_EQ(run.first, 2u);
  EXPECT_EQ(run.count, 3u);
  EXPECT_TRUE(run.fresh);
  chunks->Mark(3 * kChunk, 1);
  EXPECT_EQ(chunks->FindDirty(2, 10), 5u);
  EXPECT_EQ(chunks->FindDirty(2, 5), std::nullopt);
  EXPECT_EQ(chunks->FindUnclean(2, 10), 2u);
  EXPECT_EQ(chunks->Take(1, 10, 10).count, 1u) << "up to what is in flight";
  EXPECT_EQ(chunks->Take(2, 5, 10).count, 0u);
  chunks->Done(run);
  const ChunkRun again = chunks->Take(2, 5, 10);
  EXPECT_EQ(again.first, 3u);
  EXPECT_EQ(again.count, 1u);
  EXPECT_FALSE(again.fresh);
}

TEST(DirtyChunksTest, TakesWholeClustersTheFirstTime) {
  const std::unique_ptr<DirtyChunks> chunks = Of(30 * kChunk, 8);
  chunks->Spared(chunks->Take(0, 30, 32));
  chunks->Mark(10 * kChunk, 1);
  chunks->Mark(29 * kChunk, 1);
  ChunkRun run = chunks->Take(0, 11, 1);
  EXPECT_EQ(run.first, 8u);
  EXPECT_EQ(run.count, 8u) << "one, whatever the limit is";
  chunks->Done(run);
  run = chunks->Take(0, 30, 100);
  EXPECT_EQ(run.first, 24u);
  EXPECT_EQ(run.count, 6u) << "the disk ends";
  chunks->Done(run);
  chunks->Mark(10 * kChunk, 1);
  run = chunks->Take(0, 30, 100);
  EXPECT_EQ(run.first, 10u);
  EXPECT_EQ(run.count, 1u);
}

TEST(DirtyChunksTest, ARunOfClustersEndsWithOne) {
  const std::unique_ptr<DirtyChunks> chunks = Of(64 * kChunk, 8);
  const ChunkRun run = chunks->Take(5, 64, 20);
  EXPECT_EQ(run.first, 0u);
  EXPECT_EQ(run.count, 16u);
  // The rest of it was taken or not as a whole.
  EXPECT_EQ(chunks->Take(0, 64, 8).first, 16u);
}

TEST(DirtyChunksTest, WhatWasCopiedAndWhatWasNotIsNotTakenTogether) {
  const std::unique_ptr<DirtyChunks> chunks = Of(10 * kChunk);
  chunks->Done(chunks->Take(0, 5, 5));
  chunks->Mark(3 * kChunk, 2 * kChunk);
  EXPECT_EQ(chunks->Take(0, 10, 10).count, 2u);
  EXPECT_EQ(chunks->Take(0, 10, 10).count, 5u);
}

TEST(DirtyChunksTest, WhatFailedGoesAloneUntilItWasCopied) {
  const std::unique_ptr<DirtyChunks> chunks = Of(10 * kChunk);
  ChunkRun run = chunks->Take(2, 5, 10);
  chunks->Failed(run);
  EXPECT_EQ(chunks->Count().dirty, 10 * kChunk);
  EXPECT_EQ(chunks->Count().failed, 3 * kChunk);
  EXPECT_EQ(chunks->Take(0, 10, 10).count, 2u) << "up to what failed";
  run = chunks->Take(2, 10, 10);
  EXPECT_EQ(chunks->Count().failed, 3 * kChunk) << "in flight";
  EXPECT_EQ(run.count, 1u);
  EXPECT_TRUE(run.alone);
  EXPECT_FALSE(run.fresh);
  chunks->GiveBack(run);
  run = chunks->Take(2, 10, 10);
  EXPECT_TRUE(run.alone) << "nobody tried";
  chunks->Done(run);
  EXPECT_EQ(chunks->Count().failed, 2 * kChunk);
  chunks->Mark(2 * kChunk, 1);
  EXPECT_FALSE(chunks->Take(2, 10, 10).alone);
}

TEST(DirtyChunksTest, ARunEndsBeforeWhatFailed) {
  const std::unique_ptr<DirtyChunks> chunks = Clean(10 * kChunk);
  chunks->Mark(3 * kChunk, 1);
  chunks->Failed(chunks->Take(0, 10, 10));
  chunks->Mark(0, 10 * kChunk);
  EXPECT_EQ(chunks->Take(0, 10, 10).count, 3u);
  EXPECT_EQ(chunks->Take(0, 10, 10).count, 1u);
  EXPECT_EQ(chunks->Take(0, 10, 10).count, 6u);
}

TEST(DirtyChunksTest, WhatIsGivenBackIsAsItWas) {
  const std::unique_ptr<DirtyChunks> chunks = Of(10 * kChunk);
  chunks->GiveBack(chunks->Take(0, 10, 4));
  const ChunkRun run = chunks->Take(0, 10, 10);
  EXPECT_EQ(run.count, 10u);
  EXPECT_TRUE(run.fresh);
  EXPECT_FALSE(run.alone);
  chunks->Spared(run);
  EXPECT_EQ(chunks->Count().dirty + chunks->Count().in_flight, 0u);
  chunks->Mark(0, 1);
  EXPECT_TRUE(chunks->Take(0, 10, 10).fresh) << "nothing was written there";
}

TEST(DirtyChunksTest, ClaimsOnlyWhatIsCleanAndWasCopied) {
  const std::unique_ptr<DirtyChunks> chunks = Clean(10 * kChunk);
  const std::optional<ChunkRun> run = chunks->Claim(kChunk + 512, kChunk);
  ASSERT_TRUE(run.has_value());
  EXPECT_EQ(run->first, 1u);
  EXPECT_EQ(run->count, 2u);
  EXPECT_EQ(chunks->Count().in_flight, 2 * kChunk);
  EXPECT_EQ(chunks->Count().dirtied, 2 * kChunk);
  EXPECT_EQ(chunks->Count().dirty, 0u);
  EXPECT_FALSE(chunks->Claim(2 * kChunk, 512).has_value()) << "in flight";
  chunks->Mark(2 * kChunk, 512);
  EXPECT_EQ(chunks->FindDirty(0, 10), std::nullopt);
  chunks->Done(*run);
  EXPECT_FALSE(chunks->Claim(2 * kChunk, 512).has_value()) << "dirty";
  const ChunkRun failed = chunks->Take(0, 10, 10);
  chunks->Failed(failed);
  chunks->Done(chunks->Take(0, 10, 10));
  EXPECT_TRUE(chunks->Claim(2 * kChunk, 512).has_value());
  EXPECT_FALSE(chunks->Claim(10 * kChunk, 512).has_value()) << "past the end";
  EXPECT_FALSE(Of(kChunk)->Claim(0, 512).has_value()) << "never copied";
}

TEST(DirtyChunksTest, AgreesWithANaiveModel) {
  enum class In { kClean, kDirty, kFlight, kBoth };
  std::mt19937 random(1);
  for (int round = 0; round < 50; ++round) {
    const uint64_t bytes = 1 + random() % (200 * kChunk);
    const std::unique_ptr<DirtyChunks> chunks = Of(bytes);
    std::vector<In> model(chunks->chunks(), In::kDirty);
    std::vector<ChunkRun> taken;
    for (int step = 0; step < 500; ++step) {
      const uint64_t at = random() % model.size();
      switch (random() % 4) {
        case 0: {
          const uint64_t count = 1 + random() % 10;
          chunks->Mark(at * kChunk + 7, count * kChunk - 7);
          for (uint64_t i = at; i < std::min<uint64_t>(at + count, model.size()); ++i) {
            model[i] = at * kChunk + 7 >= bytes                           ? model[i]
                       : model[i] == In::kFlight || model[i] == In::kBoth ? In::kBoth
                                                                          : In::kDirty;
          }
          break;
        }
        case 1: {
          const ChunkRun run = chunks->Take(at, model.size(), 1 + random() % 20);
          uint64_t first = at;
          while (first < model.size() && model[first] != In::kDirty) {
            ++first;
          }
          ASSERT_EQ(run.count != 0, first < model.size());
          if (run.count != 0) {
            ASSERT_EQ(run.first, first);
            taken.push_back(run);
          }
          for (uint64_t i = run.first; i < run.end(); ++i) {
            ASSERT_EQ(model[i], In::kDirty);
            model[i] = In::kFlight;
          }
          break;
        }
        default:
          if (!taken.empty()) {
            const size_t which = random() % taken.size();
            const bool done = random() % 2 == 0;
            done ? chunks->Done(taken[which]) : chunks->Failed(taken[which]);
            for (uint64_t i = taken[which].first; i < taken[which].end(); ++i) {
              model[i] = done && model[i] == In::kFlight ? In::kClean : In::kDirty;
            }
            taken.erase(taken.begin() + static_cast<std::ptrdiff_t>(which));
          }
          break;
      }
      DirtyChunks::Bytes expected;
      for (uint64_t i = 0; i < model.size(); ++i) {
        expected.dirty += model[i] == In::kDirty || model[i] == In::kBoth ? chunks->BytesOf(i, 1) : 0;
        expected.in_flight += model[i] == In::kFlight ? chunks->BytesOf(i, 1) : 0;
      }
      ASSERT_EQ(chunks->Count().dirty, expected.dirty);
      ASSERT_EQ(chunks->Count().in_flight, expected.in_flight);
      ASSERT_LE(chunks->Count().failed, expected.dirty + expected.in_flight) << "nobody copies it any more";
    }
  }
}

TEST(DirtyChunksTest, NoWriteOfAnotherThreadIsLost) {
  const std::unique_ptr<DirtyChunks> chunks = Of(256 * kChunk);
  std::vector<std::atomic<int>> disk(256);
  std::vector<int> copy(256, 0);
  std::atomic<int> writers{2};
  const auto write = [&](uint32_t seed) {
    std::mt19937 random(seed);
    for (int i = 1; i <= 20'000; ++i) {
      const uint64_t chunk = random() % 256;
      disk[chunk].fetch_add(1);
      chunks->Mark(chunk * kChunk, kChunk);
    }
    --writers;
  };
  Thread one = StartOrDie("writer1", [&] { write(1); });
  Thread two = StartOrDie("writer2", [&] { write(2); });
  for (bool last = false;; last = writers == 0) {
    ChunkRun run;
    for (uint64_t from = 0; (run = chunks->Take(from, 256, 8)).count != 0; from = run.end()) {
      for (uint64_t i = run.first; i < run.end(); ++i) {
        copy[i] = disk[i].load();
      }
      chunks->Done(run);
    }
    if (last) {
      break;
    }
  }
  for (uint64_t i = 0; i < 256; ++i) {
    EXPECT_EQ(copy[i], disk[i].load());
  }
}

}  // namespace
}  // namespace ferrite::migration
