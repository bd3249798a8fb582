#include "migration/sending/mirror_copier.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "absl/status/status.h"
#include "base/monotonic.h"
#include "migration/sending/dirty_chunks.h"
#include "tests/fakes/fake_block_io.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kChunk = 64 << 10;
constexpr uint64_t kChunks = 8;

class Owner final : public MirrorCopier::Owner {
 public:
  void Copied(const ChunkRun& run, uint64_t) override { copied.push_back(run.first); }
  void CopiedAlone(uint64_t) override {}
  void Flushed() override {}
  void Succeeded(MirrorCopier::Side) override {}
  void Failed(MirrorCopier::Side, const absl::Status&) override {
    ++failed;
    if (failed == throws_at) {
      throw std::bad_alloc();
    }
  }
  void FlushFailed(const absl::Status&) override { ++flushes_failed; }
  bool goes_on() const override { return true; }

  int failed = 0;
  int flushes_failed = 0;
  int throws_at = 0;
  std::vector<uint64_t> copied;
};

class MirrorCopierTest : public testing::Test {
 protected:
  MirrorCopierTest() {
    const std::vector<uint8_t> data(kChunk * kChunks, 1);
    source_.content.Write(0, data.data(), data.size());
  }
  void StartAll() {
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      EXPECT_EQ(copier_->StartDirty({.end = kChunks, .most_bytes = kChunk}).what, MirrorCopier::Started::What::kRead);
    }
    copier_->Kick();
  }

  FakeBlockIo source_{{.name = "source", .bytes = kChunk * kChunks}};
  FakeBlockIo target_{{.name = "target", .bytes = kChunk * kChunks}};
  std::unique_ptr<DirtyChunks> chunks_ =
      *DirtyChunks::Create({.bytes = kChunk * kChunks, .granularity = static_cast<uint32_t>(kChunk)});
  std::unique_ptr<MirrorCopier> copier_ =
      *MirrorCopier::Create(source_, target_, *chunks_, {.in_flight = kChunks, .buffer_bytes = 1 << 20}, [] {});
  Owner owner_;
};

TEST_F(MirrorCopierTest, TellsOfEachEndOnceThoughItsOwnerThrows) {
  StartAll();
  source_.fails = [](const BlockOperation& operation) {
    return operation.offset < 3 * kChunk ? absl::DataLossError("bad") : absl::OkStatus();
  };
  for (int i = 0; i < 6; ++i) {
    source_.End(0);
  }
  owner_.throws_at = 2;
  EXPECT_THROW(copier_->TakeEnds(owner_, MonotonicTime()), std::bad_alloc);
  // More ends before the next look.
  source_.EndAll();
  copier_->TakeEnds(owner_, MonotonicTime());
  EXPECT_EQ(owner_.failed, 3);
  EXPECT_EQ(copier_->busy(), 5u);
  EXPECT_EQ(chunks_->Count().dirty, 3 * kChunk);
  copier_->TakeEnds(owner_, MonotonicTime());
  EXPECT_EQ(owner_.failed, 3);
  copier_->Kick();
  target_.EndAll();
  copier_->TakeEnds(owner_, MonotonicTime());
  EXPECT_EQ(owner_.copied, (std::vector<uint64_t>{3, 4, 5, 6, 7})) << "in the order in which they came";
  EXPECT_EQ(copier_->busy(), 0u);
}

TEST_F(MirrorCopierTest, AFlushThatFailsIsToldOfAsOne) {
  ASSERT_TRUE(copier_->StartFlush());
  copier_->Kick();
  target_.fails = [](const BlockOperation&) { return absl::DataLossError("bad"); };
  target_.EndAll();
  copier_->TakeEnds(owner_, MonotonicTime());
  EXPECT_EQ(owner_.flushes_failed, 1);
  EXPECT_EQ(owner_.failed, 0);
  EXPECT_EQ(copier_->busy(), 0u);
}

}  // namespace
}  // namespace ferrite::migration
