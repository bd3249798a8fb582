#include "devices/block/thread_io.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr uint32_t kMaxThreads = 4;

}  // namespace

absl::StatusOr<std::unique_ptr<AsyncIo>> ThreadIo::Create(EventLoop& loop, uint32_t depth) {
  FERRITE_ASSIGN_OR_RETURN(EventFd completed, EventFd::Create());
  auto io = std::unique_ptr<ThreadIo>(new ThreadIo(std::move(completed)));
  FERRITE_ASSIGN_OR_RETURN(io->watch_, loop.WatchReadable(io->completed_.fd(), [self = io.get()] {
    self->completed_.Drain();
    self->listener_();
  }));
  io->threads_.reserve(kMaxThreads);
  for (uint32_t i = 0; i < std::min(depth, kMaxThreads); ++i) {
    FERRITE_ASSIGN_OR_RETURN(Thread thread,
                             Thread::Start(absl::StrCat("blkio-", i), [self = io.get()] { self->Work(); }));
    io->threads_.push_back(std::move(thread));
  }
  return io;
}

ThreadIo::~ThreadIo() {
  {
    absl::MutexLock lock(&mutex_);
    FERRITE_CHECK(submitted_.empty() && to_do_.empty() && done_.empty() && working_ == 0);
    stopping_ = true;
  }
  for (Thread& thread : threads_) {
    thread.Join();
  }
}

void ThreadIo::Kick() {
  absl::MutexLock lock(&mutex_);
  to_do_.Append(submitted_);
}

IoRequest* ThreadIo::PopDone() {
  absl::MutexLock lock(&mutex_);
  return done_.Pop();
}

void ThreadIo::Work() {
  const auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !to_do_.empty(); };
  absl::MutexLock lock(&mutex_);
  for (;;) {
    mutex_.Await(absl::Condition(&has_work));
    if (stopping_) {
      return;
    }
    IoRequest* request = to_do_.Pop();
    ++working_;
    mutex_.Unlock();
    request->CarryOut();
    mutex_.Lock();
    --working_;
    done_.Push(*request);
    completed_.Signal();
  }
}

}  // namespace ferrite
