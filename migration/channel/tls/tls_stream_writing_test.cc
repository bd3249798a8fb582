// What is written, and memory that cannot be had.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/thread.h"
#include "memory/bus_fault.h"
#include "migration/channel/tls/tls_stream_rig.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

using testing::HasSubstr;
using TlsStreamWritingTest = TlsStreamTest;

TEST_F(TlsStreamWritingTest, WhatGoesAtOnceIsCounted) {
  Open();
  EXPECT_EQ(source_->WriteSome(std::vector<uint8_t>(100, 3)), 100u);
  const std::vector<uint8_t> much(64 << 20);
  const size_t went = source_->WriteSome(much);
  EXPECT_LT(went, much.size());
  std::vector<uint8_t> got(100 + went);
  EXPECT_TRUE(destination_->ReadAll(got).ok());
  EXPECT_EQ(std::count(got.begin(), got.end(), 3), 100);
}

TEST_F(TlsStreamWritingTest, PeerThatStopsReadingIsGivenUpAndWrittenToNoMore) {
  Open();
  source_->SetPatience(absl::Milliseconds(20));
  const std::vector<uint8_t> much(64 << 20);
  EXPECT_THAT(std::string(source_->WriteAll(much).message()), HasSubstr("stopped reading"));
  EXPECT_THAT(std::string(source_->WriteAll(std::vector<uint8_t>(1)).message()), HasSubstr("stopped reading before"));
}

// Memory behind the end of its file: SIGBUS for who touches it, as of a page that the hardware lost.
class LostMemory {
 public:
  LostMemory() {
    CatchBusFaults();
    const Fd file(memfd_create("test-lost", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(file.get(), kPage), 0);
    base_ = static_cast<uint8_t*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
    EXPECT_NE(base_, MAP_FAILED);
  }
  ~LostMemory() { munmap(base_, 2 * kPage); }
  std::span<uint8_t> good() const { return {base_, kPage}; }
  std::span<uint8_t> lost() const { return {base_ + kPage, kPage}; }

 private:
  static constexpr size_t kPage = 4096;
  uint8_t* base_ = nullptr;
};

TEST_F(TlsStreamWritingTest, PageThatIsLostEndsNoRecordAndOthersMayGoInItsPlace) {
  Open();
  const LostMemory memory;
  std::fill(memory.good().begin(), memory.good().end(), 7);
  std::vector<uint8_t> head(20'000, 1);
  iovec pieces[] = {{.iov_base = head.data(), .iov_len = head.size()},
                    {.iov_base = memory.good().data(), .iov_len = 4096},
                    {.iov_base = memory.lost().data(), .iov_len = 4096}};
  const absl::Status status = source_->WriteAll(pieces);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  // What is left of them is what did not go.
  std::vector<uint8_t> filler(4096, 9);
  pieces[2].iov_base = filler.data();
  ASSERT_TRUE(source_->WriteAll(pieces).ok());
  std::vector<uint8_t> got(20'000 + 2 * 4096);
  ASSERT_TRUE(destination_->ReadAll(got).ok());
  EXPECT_EQ(std::count(got.begin(), got.end(), 1), 20'000);
  EXPECT_EQ(std::count(got.begin(), got.end(), 7), 4096);
  EXPECT_EQ(std::count(got.begin(), got.end(), 9), 4096);
}

TEST_F(TlsStreamWritingTest, MemoryThatCannotBeReadToIsToldFromABrokenConnection) {
  Open();
  const LostMemory memory;
  ASSERT_TRUE(source_->WriteAll(std::vector<uint8_t>(100)).ok());
  const absl::Status status = destination_->ReadAll(memory.lost().first(100));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  std::array<uint8_t, 4> bytes;
  EXPECT_FALSE(destination_->ReadAll(bytes).ok()) << "it is of no more use";
}

TEST_F(TlsStreamWritingTest, ShutdownOnAnotherThreadEndsBothWaits) {
  Open();
  Thread reader = StartOrDie("test-reader", [&] {
    std::array<uint8_t, 8> bytes;
    EXPECT_FALSE(source_->ReadAll(bytes).ok());
  });
  Thread writer = StartOrDie("test-writer", [&] {
    const std::vector<uint8_t> much(64 << 20);
    EXPECT_FALSE(source_->WriteAll(much).ok());
  });
  std::array<uint8_t, 8> first;
  ASSERT_TRUE(destination_->ReadAll(first).ok()) << "it is on";
  source_->Shutdown();
  reader.Join();
  writer.Join();
  EXPECT_TRUE(source_->shut_down());
}

}  // namespace
}  // namespace ferrite::migration
