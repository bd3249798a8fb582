// What servers may say that real ones seldom do.

#include "vmm/mirror/nbd_export.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "base/timed_mutex.h"
#include "vmm/mirror/block_driver.h"
#include "vmm/mirror/nbd_blocks.h"
#include "vmm/mirror/scripted_nbd_server.h"

namespace ferrite {
namespace {

constexpr uint32_t kDepth = 4;
constexpr uint32_t kNotSupported = 95;  // NBD_ENOTSUP
constexpr uint64_t kMiB = uint64_t{1} << 20;

class NbdExportTest : public testing::Test {
 protected:
  NbdExportTest() : loop_(*EventLoop::Create("test-loop")) {}

  absl::StatusOr<std::unique_ptr<NbdExport>> Connect(NbdScript script, absl::Duration patience = absl::Minutes(5)) {
    if (!script.answer) {
      script.answer = [](const NbdRequest& request) { return NbdAnswer{ScriptedNbdServer::Reply(request, 0)}; };
    }
    script.answer = [this, answer = std::move(script.answer)](const NbdRequest& request) {
      TimedMutexLock lock(&mutex_);
      requests_.push_back(request);
      return answer(request);
    };
    server_ = std::make_unique<ScriptedNbdServer>(std::move(script));
    return NbdExport::ConnectTo(server_->client(), "server", *loop_, {.depth = kDepth, .patience = patience});
  }
  NbdExport::Facts FactsOf(NbdScript script) {
    const auto nbd = Connect(std::move(script));
    EXPECT_TRUE(nbd.ok()) << nbd.status();
    return nbd.ok() ? (*nbd)->facts() : NbdExport::Facts();
  }
  void Use(NbdScript script, absl::Duration patience = absl::Minutes(5)) {
    auto nbd = Connect(std::move(script), patience);
    ASSERT_TRUE(nbd.ok()) << nbd.status();
    nbd_ = nbd->get();
    blocks_ = MakeNbdBlocks("server", *std::move(nbd), kDepth);
    driver_ = std::make_unique<BlockDriver>(*loop_, *blocks_);
  }
  std::vector<NbdRequest> TakeRequests() {
    TimedMutexLock lock(&mutex_);
    return std::exchange(requests_, {});
  }

  std::unique_ptr<EventLoop> loop_;
  TimedMutex mutex_;
  std::vector<NbdRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<ScriptedNbdServer> server_;
  NbdExport* nbd_ = nullptr;  // of blocks_
  std::unique_ptr<migration::BlockIo> blocks_;
  std::unique_ptr<BlockDriver> driver_;
};

TEST_F(NbdExportTest, BlockSizesAreBounded) {
  const struct {
    uint32_t least, preferred, most;
    uint32_t block_bytes, preferred_bytes, most_bytes;
  } kCases[] = {
      {1, 4096, 32 << 20, 1, 4096, 32 << 20},
      {512, 4096, 0xffff'ffff, 512, 4096, 32 << 20},
      {4096, 4096, 65536, 4096, 4096, 65536},
      {65536, 65536, 1 << 20, 65536, 65536, 1 << 20},
      {512, 128 << 20, 256 << 20, 512, 64 << 20, 32 << 20},
  };
  for (const auto& one : kCases) {
    NbdScript script;
    script.bytes = uint64_t{1} << 40;
    script.least = one.least;
    script.preferred = one.preferred;
    script.most = one.most;
    const NbdExport::Facts facts = FactsOf(std::move(script));
    EXPECT_EQ(facts.bytes, uint64_t{1} << 40);
    EXPECT_EQ(facts.block_bytes, one.block_bytes) << one.least;
    EXPECT_EQ(facts.preferred_bytes, one.preferred_bytes) << one.preferred;
    EXPECT_EQ(facts.most_bytes, one.most_bytes) << one.most;
  }
}

TEST_F(NbdExportTest, WhatIsNotSaidIsWhatTheProtocolSays) {
  NbdScript script;
  script.has_block_sizes = false;
  script.structured = false;
  script.flags = 1;
  const NbdExport::Facts facts = FactsOf(std::move(script));
  EXPECT_EQ(facts.block_bytes, 512u);
  EXPECT_EQ(facts.preferred_bytes, 4096u);
  EXPECT_EQ(facts.most_bytes, 32u << 20);
  EXPECT_FALSE(facts.flush || facts.trim || facts.zero || facts.fast_zero || facts.read_only || facts.tls);
}

TEST_F(NbdExportTest, SizesThatCannotBeAreRefused) {
  for (const uint64_t bytes : {uint64_t{1} << 63, ~uint64_t{0}}) {
    NbdScript script;
    script.bytes = bytes;
    EXPECT_FALSE(Connect(std::move(script)).ok()) << bytes;
  }
}

TEST_F(NbdExportTest, ZeroesAreAskedForFastThenSlowlyThenWritten) {
  NbdScript script;
  script.bytes = 8 * kMiB;
  bool zeroes = true;
  script.answer = [&](const NbdRequest& request) {
    const bool refused = request.type == NbdRequest::kZero && (!zeroes || (request.flags & kNbdFlagFastZero) != 0);
    return NbdAnswer{ScriptedNbdServer::Reply(request, refused ? kNotSupported : 0)};
  };
  ASSERT_NO_FATAL_FAILURE(Use(std::move(script)));
  EXPECT_TRUE(driver_->Zero(0, 4 * kMiB).ok());
  std::vector<NbdRequest> requests = TakeRequests();
  ASSERT_EQ(requests.size(), 2u);
  for (const NbdRequest& request : requests) {
    EXPECT_EQ(request.type, NbdRequest::kZero);
    EXPECT_EQ(request.offset, 0u);
    EXPECT_EQ(request.bytes, 4 * kMiB);
  }
  EXPECT_EQ(requests[0].flags, kNbdFlagFastZero);
  EXPECT_EQ(requests[1].flags, 0) << "holes are welcome";

  // It has said once that it cannot; and now it cannot zero at all.
  zeroes = false;
  EXPECT_TRUE(driver_->Zero(kMiB, 5 * kMiB / 2).ok());
  requests = TakeRequests();
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_EQ(requests[0].type, NbdRequest::kZero);
  EXPECT_EQ(requests[0].flags, 0);
  uint64_t offset = kMiB;
  for (size_t i = 1; i < requests.size(); ++i) {
    EXPECT_EQ(requests[i].type, NbdRequest::kWrite);
    EXPECT_EQ(requests[i].offset, offset);
    offset += requests[i].bytes;
  }
  EXPECT_EQ(offset, kMiB + 5 * kMiB / 2);

  EXPECT_TRUE(driver_->Zero(0, 512).ok());
  requests = TakeRequests();
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(requests[0].type, NbdRequest::kWrite);
}

TEST_F(NbdExportTest, ATrimThatIsNotSupportedIsNoError) {
  NbdScript script;
  script.answer = [](const NbdRequest& request) { return NbdAnswer{ScriptedNbdServer::Reply(request, kNotSupported)}; };
  ASSERT_NO_FATAL_FAILURE(Use(std::move(script)));
  EXPECT_TRUE(driver_->Discard(0, 4096).ok());
  EXPECT_FALSE(driver_->Flush().ok()) << "of which it said that it has it";
  EXPECT_FALSE(driver_->Write(0, std::string(512, 'x')).ok());
  ASSERT_EQ(TakeRequests().size(), 3u);
}

TEST_F(NbdExportTest, AnErrorEndsAnOperationInPiecesEarly) {
  NbdScript script;
  script.bytes = 1024 * kMiB;
  script.most = 1 << 20;
  script.answer = [](const NbdRequest& request) { return NbdAnswer{ScriptedNbdServer::Reply(request, EIO)}; };
  ASSERT_NO_FATAL_FAILURE(Use(std::move(script)));
  EXPECT_EQ(driver_->Zero(0, 1024 * kMiB).message(), "zero 1073741824 bytes at 0 of server: Input/output error");
  EXPECT_LE(TakeRequests().size(), size_t{kDepth});
  EXPECT_EQ(driver_->Flush().message(), "flush server: Input/output error");
}

TEST_F(NbdExportTest, AServerThatHangsUpInTheMiddle) {
  for (const std::string& bytes : {std::string(), std::string("\x67\x44", 2), std::string(100, 'x')}) {
    NbdScript script;
    script.answer = [bytes](const NbdRequest&) { return NbdAnswer{.bytes = bytes, .last = true}; };
    ASSERT_NO_FATAL_FAILURE(Use(std::move(script)));
    const absl::Status status = driver_->Write(0, std::string(512, 'x'));
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_TRUE(absl::StartsWith(status.message(),
                                 "write 512 bytes at 0 of server: the connection to the NBD server is lost: "))
        << status;
    EXPECT_GT(status.message().size(), 80u) << "libnbd's words: " << status;
    driver_.reset();
    blocks_.reset();
  }
}

TEST_F(NbdExportTest, AnAnswerThatLacksDataIsAnError) {
  NbdScript script;
  script.answer = [](const NbdRequest& request) {
    return NbdAnswer{ScriptedNbdServer::Chunk(request, 1, 1, NbdBytes().Add(request.offset).Text("few").bytes())};
  };
  ASSERT_NO_FATAL_FAILURE(Use(std::move(script)));
  EXPECT_TRUE(absl::EndsWith(driver_->Read(0, 512), "read 512 bytes at 0 of server: Protocol error"));
}

TEST_F(NbdExportTest, AnAnswerMayComeInChunksAndHoles) {
  NbdScript script;
  script.answer = [](const NbdRequest& request) {
    const std::string data(256, 'x');
    return NbdAnswer{
        ScriptedNbdServer::Chunk(request, 0, 1, NbdBytes().Add(request.offset + 256).Text(data).bytes()) +
        ScriptedNbdServer::Chunk(request, 1, 2, NbdBytes().Add(request.offset).Add(uint32_t{256}).bytes())};
  };
  ASSERT_NO_FATAL_FAILURE(Use(std::move(script)));
  EXPECT_EQ(driver_->Read(0, 512), std::string(256, '\0') + std::string(256, 'x'));
}

TEST_F(NbdExportTest, BytesThatEndNoCommandAreNoSignOfLife) {
  TimedNotification over;
  NbdScript script;
  script.answer = [&](const NbdRequest& request) {
    // Holes of the same place again and again; none is the last one.
    const std::string hole =
        ScriptedNbdServer::Chunk(request, 0, 2, NbdBytes().Add(request.offset).Add(uint32_t{256}).bytes());
    return NbdAnswer{.bytes = hole,
                     .more = [&over, hole] { return over.WaitFor(absl::Milliseconds(20)) ? std::string() : hole; }};
  };
  ASSERT_NO_FATAL_FAILURE(Use(std::move(script), absl::Milliseconds(200)));
  EXPECT_TRUE(absl::EndsWith(driver_->Read(0, 512), "is lost: the server did nothing for 200ms"));
  over.Notify();
  server_.reset();
}

TEST_F(NbdExportTest, AnEarlyFlushGoesBesideWhatIsInFlight) {
  // The server answers the writes when it has seen the flush.
  std::vector<NbdRequest> held;
  NbdScript script;
  script.answer = [&](const NbdRequest& request) {
    if (request.type == NbdRequest::kWrite) {
      held.push_back(request);
      return NbdAnswer{};
    }
    std::string answer;
    for (const NbdRequest& write : std::exchange(held, {})) {
      answer += ScriptedNbdServer::Reply(write, 0);
    }
    return NbdAnswer{answer + ScriptedNbdServer::Reply(request, 0)};
  };
  ASSERT_NO_FATAL_FAILURE(Use(std::move(script)));
  std::string data(512, 'x');
  for (int i = 0; i < 3; ++i) {
    std::vector<migration::BlockOperation> writes(
        kDepth, BlockDriver::Make(migration::BlockOperation::Kind::kWrite, 0, 512, &data));
    std::vector<migration::BlockOperation*> pointers;
    for (auto& write : writes) {
      pointers.push_back(&write);
    }
    driver_->Start(pointers);
    EXPECT_EQ(nbd_->Flush(), 0);
    // One that was not among those the server had seen by then is answered by the next flush.
    while (!driver_->Await(absl::Milliseconds(50))) {
      EXPECT_EQ(nbd_->Flush(), 0);
    }
    for (const auto& write : writes) {
      EXPECT_TRUE(write.result.ok()) << write.result;
    }
  }
}

TEST_F(NbdExportTest, AfterAFlushThatFailedAllFail) {
  for (const bool early : {false, true}) {
    NbdScript script;
    int flushes = 0;
    script.answer = [&flushes](const NbdRequest& request) {
      const bool fails = request.type == NbdRequest::kFlush && flushes++ == 0;
      return NbdAnswer{ScriptedNbdServer::Reply(request, fails ? EIO : 0)};
    };
    ASSERT_NO_FATAL_FAILURE(Use(std::move(script)));
    if (early) {
      EXPECT_EQ(nbd_->Flush(), EIO);
    }
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(driver_->Flush().message(), "flush server: Input/output error");
      EXPECT_EQ(nbd_->Flush(), EIO);
    }
    EXPECT_TRUE(driver_->Write(0, std::string(512, 'x')).ok());
    driver_.reset();
    blocks_.reset();
  }
}

TEST_F(NbdExportTest, AnEarlyFlushEndsWithTheConnection) {
  NbdScript script;
  script.answer = [](const NbdRequest& /*request*/) { return NbdAnswer{}; };
  ASSERT_NO_FATAL_FAILURE(Use(std::move(script), absl::Milliseconds(200)));
  EXPECT_EQ(nbd_->Flush(), kNbdLost);
  EXPECT_TRUE(absl::EndsWith(nbd_->lost().message(), "the server did nothing for 200ms")) << nbd_->lost();
  EXPECT_EQ(nbd_->Flush(), kNbdLost) << "and so later ones";
}

TEST_F(NbdExportTest, AnEarlyFlushOfAServerWithoutOneIsNothing) {
  NbdScript script;
  script.flags = 1;
  auto nbd = Connect(std::move(script));
  ASSERT_TRUE(nbd.ok());
  EXPECT_EQ((*nbd)->Flush(), 0);
  EXPECT_EQ(TakeRequests().size(), 0u);
}

TEST_F(NbdExportTest, TheGoodByeIsSaid) {
  auto nbd = Connect({});
  ASSERT_TRUE(nbd.ok());
  nbd->reset();
  EXPECT_EQ(TakeRequests().size(), 0u);
  EXPECT_TRUE(server_->AwaitGoodBye(absl::Minutes(1)));
}

}  // namespace
}  // namespace ferrite
