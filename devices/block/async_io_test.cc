#include "devices/block/async_io.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/timed_mutex.h"

namespace ferrite {
namespace {

using Engine = AsyncIo::Engine;
using Kind = IoRequest::Kind;

constexpr uint32_t kDepth = 8;
constexpr size_t kFileBytes = size_t{1} << 20;

class AsyncIoTest : public testing::TestWithParam<Engine> {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/ferrite-io-XXXXXX";
    file_ = Fd(mkostemp(pattern.data(), O_CLOEXEC));
    ASSERT_TRUE(file_.valid());
    unlink(pattern.c_str());
    ASSERT_EQ(ftruncate(file_.get(), kFileBytes), 0);

    auto loop = EventLoop::Create("test-loop");
    ASSERT_TRUE(loop.ok());
    loop_ = *std::move(loop);
    auto io = AsyncIo::Create(*loop_, kDepth, GetParam());
    if (!io.ok() && GetParam() == Engine::kIoUring) {
      GTEST_SKIP() << io.status();
    }
    ASSERT_TRUE(io.ok()) << io.status();
    io_ = *std::move(io);
    io_->SetListener([this] { Collect(); });
  }

  void Collect() {
    while (IoRequest* request = io_->PopDone()) {
      TimedMutexLock lock(&mutex_);
      done_.push_back(request);
    }
  }

  // Submits them together and waits until as many are done.
  void Run(const std::vector<IoRequest*>& requests) {
    {
      TimedMutexLock lock(&mutex_);
      done_.clear();
    }
    loop_->RunAndWait([&] {
      for (IoRequest* request : requests) {
        io_->Submit(*request);
      }
      io_->Kick();
      Collect();
    });
    const auto all_done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return done_.size() == requests.size(); };
    TimedMutexLock lock(&mutex_);
    ASSERT_TRUE(mutex_.AwaitFor(absl::Condition(&all_done), absl::Seconds(30))) << done_.size();
  }

  IoRequest Make(Kind kind, uint64_t offset, std::vector<iovec> buffers = {}) {
    IoRequest request;
    request.kind = kind;
    request.fd = file_.get();
    request.offset = offset;
    request.buffers = std::move(buffers);
    return request;
  }

  std::string Contents(off_t offset, size_t bytes) {
    std::string out(bytes, '?');
    EXPECT_EQ(pread(file_.get(), out.data(), bytes, offset), static_cast<ssize_t>(bytes));
    return out;
  }

  Fd file_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<AsyncIo> io_;
  TimedMutex mutex_;
  std::vector<IoRequest*> done_ ABSL_GUARDED_BY(mutex_);
};

TEST_P(AsyncIoTest, WritesAndReadsBack) {
  std::string a(5000, 'a');
  std::string b(3000, 'b');
  IoRequest write = Make(Kind::kWrite, 1234, {{a.data(), a.size()}, {b.data(), b.size()}});
  Run({&write});
  EXPECT_EQ(write.error, 0);
  EXPECT_EQ(Contents(1234, 8000), a + b);

  std::string back(8000, '?');
  IoRequest read = Make(Kind::kRead, 1234, {{back.data(), 1}, {back.data() + 1, 7999}});
  Run({&read});
  EXPECT_EQ(read.error, 0);
  EXPECT_EQ(back, a + b);

  IoRequest flush = Make(Kind::kFlush, 0);
  Run({&flush});
  EXPECT_EQ(flush.error, 0);
}

TEST_P(AsyncIoTest, TakesMoreRequestsThanItsDepth) {
  constexpr size_t kRequests = 40 * kDepth;
  std::string source(kRequests * 512, '\0');
  for (size_t i = 0; i < source.size(); ++i) {
    source[i] = static_cast<char>(i / 512 * 7 + i);
  }
  std::vector<IoRequest> writes(kRequests);
  std::vector<IoRequest*> pointers;
  for (size_t i = 0; i < kRequests; ++i) {
    writes[i] = Make(Kind::kWrite, i * 512, {{source.data() + i * 512, 512}});
    pointers.push_back(&writes[i]);
  }
  Run(pointers);
  EXPECT_TRUE(std::all_of(writes.begin(), writes.end(), [](const IoRequest& write) { return write.error == 0; }));
  EXPECT_EQ(Contents(0, source.size()), source);
}

TEST_P(AsyncIoTest, OneRequestMayHaveMoreBuffersThanTheKernelTakes) {
  constexpr size_t kBuffers = 2 * IOV_MAX + 7;
  std::string source(kBuffers * 3, '\0');
  std::vector<iovec> buffers;
  for (size_t i = 0; i < kBuffers; ++i) {
    source[3 * i] = static_cast<char>(i);
    buffers.push_back({source.data() + 3 * i, 3});
  }
  IoRequest write = Make(Kind::kWrite, 99, buffers);
  Run({&write});
  EXPECT_EQ(write.error, 0);
  EXPECT_EQ(Contents(99, source.size()), source);
}

TEST_P(AsyncIoTest, DiscardsAndWritesZeroes) {
  const std::string ones(kFileBytes, '\1');
  ASSERT_EQ(pwrite(file_.get(), ones.data(), ones.size(), 0), static_cast<ssize_t>(ones.size()));
  for (const bool unmap : {false, true}) {
    IoRequest zero = Make(Kind::kWriteZeroes, unmap ? 65536 + 512 : 512);
    zero.bytes = 20000 / 512 * 512;
    zero.unmap = unmap;
    Run({&zero});
    EXPECT_EQ(zero.error, 0);
    EXPECT_EQ(Contents(zero.offset, zero.bytes), std::string(zero.bytes, '\0'));
    EXPECT_EQ(Contents(zero.offset - 512, 512), std::string(512, '\1'));
    EXPECT_EQ(Contents(zero.offset + zero.bytes, 512), std::string(512, '\1'));
  }
  IoRequest discard = Make(Kind::kDiscard, 524288);
  discard.bytes = 4096;
  Run({&discard});
  EXPECT_EQ(discard.error, 0);
  EXPECT_EQ(Contents(524288 + 4096, 512), std::string(512, '\1'));
}

TEST_P(AsyncIoTest, ReportsWhatTheFileSaid) {
  std::string data(4096, 'x');
  IoRequest past_the_end = Make(Kind::kRead, kFileBytes - 512, {{data.data(), data.size()}});
  auto full = OpenFile("/dev/full", O_RDWR);
  ASSERT_TRUE(full.ok());
  IoRequest no_space = Make(Kind::kWrite, 0, {{data.data(), data.size()}});
  no_space.fd = full->get();
  IoRequest closed = Make(Kind::kWrite, 0, {{data.data(), data.size()}});
  closed.fd = -1;
  IoRequest fine = Make(Kind::kFlush, 0);
  Run({&past_the_end, &no_space, &closed, &fine});
  EXPECT_EQ(past_the_end.error, EIO);
  EXPECT_EQ(no_space.error, ENOSPC);
  EXPECT_EQ(closed.error, EBADF);
  EXPECT_EQ(fine.error, 0);
}

TEST_P(AsyncIoTest, AWriteThatBecomesShortGoesOnToItsError) {
  // The kernel writes up to the limit, then says EFBIG; the signal that goes with it the program ignores, too.
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit limit = {.rlim_cur = kFileBytes + 4096, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::string data(8192, 'x');
  IoRequest write = Make(Kind::kWrite, kFileBytes, {{data.data(), data.size()}});
  Run({&write});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(write.error, EFBIG);
  EXPECT_EQ(Contents(kFileBytes, 4096), std::string(4096, 'x'));
}

INSTANTIATE_TEST_SUITE_P(Engines, AsyncIoTest, testing::Values(Engine::kIoUring, Engine::kThreads),
                         [](const auto& info) { return info.param == Engine::kIoUring ? "IoUring" : "Threads"; });

TEST(AsyncIoCreateTest, ChoosesAnEngineThatWorks) {
  auto loop = EventLoop::Create("test-loop");
  ASSERT_TRUE(loop.ok());
  EXPECT_TRUE(AsyncIo::Create(**loop, kDepth).ok());
}

}  // namespace
}  // namespace ferrite
