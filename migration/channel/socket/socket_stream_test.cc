#include "migration/channel/socket/socket_stream.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "base/thread.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/tls_pair.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {
namespace {

using Ends = std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>>;

Ends OverSockets() {
  auto ends = *MakeStreamPair();
  return {std::move(ends.first), std::move(ends.second)};
}

Ends OverTls() {
  const TlsPlace place;
  TlsPair pair = ShakeHands(*place.source(), *place.destination());
  return {*std::move(pair.source), *std::move(pair.destination)};
}

struct StreamKind {
  const char* name;
  Ends (*make)();
};

// What every kind of stream does.
class StreamTest : public testing::TestWithParam<StreamKind> {
 protected:
  static absl::StatusOr<Ends> Make() { return GetParam().make(); }
};

INSTANTIATE_TEST_SUITE_P(Kinds, StreamTest,
                         testing::Values(StreamKind{"Socket", OverSockets}, StreamKind{"Tls", OverTls}),
                         [](const testing::TestParamInfo<StreamKind>& info) { return info.param.name; });

TEST_P(StreamTest, GathersManyPieces) {
  auto pair = Make();
  ASSERT_TRUE(pair.ok());
  std::vector<uint8_t> sent(100'000);
  for (size_t i = 0; i < sent.size(); ++i) {
    sent[i] = static_cast<uint8_t>(i * 7);
  }
  Thread writer = StartOrDie("writer", [&] {
    std::vector<iovec> pieces;
    for (size_t at = 0; at < sent.size(); at += 37) {  // more pieces than the kernel takes at once
      pieces.push_back({.iov_base = &sent[at], .iov_len = std::min<size_t>(37, sent.size() - at)});
    }
    EXPECT_TRUE(pair->first->WriteAll(std::span<iovec>(pieces)).ok());
  });
  std::vector<uint8_t> got(sent.size());
  EXPECT_TRUE(pair->second->ReadAll(got).ok());
  writer.Join();
  EXPECT_EQ(got, sent);
}

TEST_P(StreamTest, TellsACloseFromABreak) {
  auto pair = Make();
  ASSERT_TRUE(pair.ok());
  std::array<uint8_t, 8> bytes{};
  ASSERT_TRUE(pair->first->WriteAll(bytes).ok());
  pair->first.reset();
  EXPECT_TRUE(pair->second->ReadAll(bytes).ok());
  EXPECT_EQ(pair->second->ReadAll(bytes).code(), absl::StatusCode::kOutOfRange);

  auto broken = Make();
  ASSERT_TRUE(broken.ok());
  ASSERT_TRUE(broken->first->WriteAll(std::span<const uint8_t>(bytes).first(3)).ok());
  broken->first.reset();
  EXPECT_EQ(broken->second->ReadAll(bytes).code(), absl::StatusCode::kUnavailable);
}

TEST_P(StreamTest, GivesUpAPeerThatStopsInTheMiddle) {
  auto pair = Make();
  ASSERT_TRUE(pair.ok());
  pair->second->SetPatience(absl::Milliseconds(20));
  std::array<uint8_t, 8> bytes{};
  ASSERT_TRUE(pair->first->WriteAll(std::span<const uint8_t>(bytes).first(3)).ok());
  const absl::Status read = pair->second->ReadAll(bytes);
  EXPECT_NE(read.message().find("in the middle of a frame"), absl::string_view::npos) << read;
  // Nobody reads what it writes.
  const std::vector<uint8_t> much(16 << 20);
  const absl::Status write = pair->second->WriteAll(much);
  EXPECT_NE(write.message().find("stopped reading"), absl::string_view::npos) << write;
}

// Also when nothing came of the rest yet: between a frame's head and what follows it.
TEST_P(StreamTest, WriteThatWaitsIsHurried) {
  auto pair = Make();
  ASSERT_TRUE(pair.ok());
  pair->second->SetPatience(absl::Minutes(5));
  absl::Status written;
  Thread writer = StartOrDie("test-writer", [&] {
    const std::vector<uint8_t> much(16 << 20);
    written = pair->second->WriteAll(much);
  });
  std::array<uint8_t, 8> first;
  ASSERT_TRUE(pair->first->ReadAll(first).ok()) << "it is on";
  pair->second->SetWritePatience(absl::Milliseconds(20));
  writer.Join();
  EXPECT_NE(written.message().find("stopped reading"), absl::string_view::npos) << written;
}

TEST_P(StreamTest, GivesUpAPeerThatStopsBehindAHead) {
  auto pair = Make();
  ASSERT_TRUE(pair.ok()) << pair.status();
  ASSERT_TRUE(pair->first->WriteAll(std::vector<uint8_t>(32)).ok());
  std::array<uint8_t, 32> bytes;
  ASSERT_TRUE(pair->second->ReadAll(bytes).ok());
  pair->second->SetPatience(absl::Milliseconds(50));
  const absl::Status status = pair->second->ReadRest(bytes);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_NE(status.message().find("in the middle of a frame"), absl::string_view::npos) << status;
}

// Whoever reads it off as a lost connection would try again for ever.
TEST(SocketStreamTest, TellsMemoryThatCannotBeHadFromABrokenConnection) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  void* const closed = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(closed, MAP_FAILED);
  const std::span<uint8_t> memory(static_cast<uint8_t*>(closed), 4096);
  const absl::Status write = pair->first->WriteAll(std::span<const uint8_t>(memory));
  EXPECT_EQ(write.code(), absl::StatusCode::kResourceExhausted) << write;
  EXPECT_TRUE(absl::StrContains(write.message(), "Bad address (memory of this side cannot be had; ")) << write;
  const std::array<uint8_t, 8> bytes{};
  ASSERT_TRUE(pair->first->WriteAll(bytes).ok());
  const absl::Status read = pair->second->ReadAll(memory.first(8));
  EXPECT_EQ(read.code(), absl::StatusCode::kResourceExhausted) << read;
  EXPECT_TRUE(absl::StrContains(read.message(), "Bad address")) << read;
  munmap(closed, 4096);
}

TEST_P(StreamTest, ShutdownEndsAReadThatWaits) {
  auto pair = Make();
  ASSERT_TRUE(pair.ok());
  Thread reader = StartOrDie("reader", [&] {
    std::array<uint8_t, 8> bytes{};
    EXPECT_FALSE(pair->second->ReadAll(bytes).ok());
  });
  pair->second->Shutdown();
}

// A peer can have filled the kernel's buffer before: what is in there is nobody's any more.
TEST_P(StreamTest, ShutdownEndsReadsOfWhatCameBefore) {
  auto pair = Make();
  ASSERT_TRUE(pair.ok()) << pair.status();
  ASSERT_TRUE(pair->first->WriteAll(std::vector<uint8_t>(64)).ok());
  std::array<uint8_t, 32> bytes;
  ASSERT_TRUE(pair->second->ReadAll(bytes).ok());
  pair->second->Shutdown();
  EXPECT_TRUE(absl::IsOutOfRange(pair->second->ReadAll(bytes)));
}

TEST_P(StreamTest, TimeEndsAWaitForBytesAndSoDoesAShutdown) {
  auto pair = Make();
  ASSERT_TRUE(pair.ok());
  FakeClock clock;
  Thread waiter = StartOrDie("waiter", [&] {
    EXPECT_FALSE(pair->first->AwaitReadable(clock, absl::Minutes(1)));
    EXPECT_TRUE(pair->second->AwaitReadable(clock, absl::Hours(1)));
  });
  ASSERT_TRUE(clock.AwaitWaiting(1));
  clock.Advance(absl::Minutes(1));
  ASSERT_TRUE(clock.AwaitWaiting(1));
  pair->second->Shutdown();
  waiter.Join();
}

}  // namespace
}  // namespace ferrite::migration
