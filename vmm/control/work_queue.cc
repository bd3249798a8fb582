#include "vmm/control/work_queue.h"

#include <memory>
#include <utility>

namespace ferrite {

WorkQueue::WorkQueue(std::string thread_name) : thread_(std::move(thread_name), [this] { Loop(); }) {}

void WorkQueue::Close() {
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
  }
  thread_.Join();
}

kj::Promise<absl::Status> WorkQueue::Run(kj::Function<absl::Status()> work) {
  auto pair = kj::newPromiseAndCrossThreadFulfiller<void>();
  auto result = std::make_shared<absl::Status>();
  absl::MutexLock lock(&mutex_);
  if (closed_) {
    return absl::Status(absl::UnavailableError("this machine is ending"));
  }
  if (queue_.size() >= kMaxQueued) {
    return absl::Status(absl::ResourceExhaustedError("too many operations wait for this machine; try again later"));
  }
  queue_.emplace_back([work = kj::mv(work), fulfiller = kj::mv(pair.fulfiller), result]() mutable {
    *result = work();
    fulfiller->fulfill();
  });
  return pair.promise.then([result] { return std::move(*result); });
}

kj::Maybe<kj::Function<void()>> WorkQueue::Take() {
  const auto due = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return closed_ || !queue_.empty(); };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&due));
  if (queue_.empty()) {
    return nullptr;
  }
  kj::Function<void()> work = kj::mv(queue_.front());
  queue_.pop_front();
  return work;
}

void WorkQueue::Loop() {
  for (;;) {
    KJ_IF_MAYBE (work, Take()) {
      (*work)();
    } else {
      return;
    }
  }
}

}  // namespace ferrite
