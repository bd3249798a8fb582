#include "vmm/control/work_queue.h"

#include <utility>

#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite {
namespace {

absl::Status Ending() { return absl::UnavailableError("this machine is ending"); }

}  // namespace

absl::Status WorkQueue::Start(std::string thread_name) {
  FERRITE_ASSIGN_OR_RETURN(thread_, Thread::Start(std::move(thread_name), [this] { Loop(); }));
  return absl::OkStatus();
}

void WorkQueue::BeginEnd() {
  const absl::Status ending = Ending();
  std::list<Entry> dropped;
  {
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    dropped.swap(last_);
  }
  for (const Entry& entry : dropped) {
    *entry.result = ending;
    entry.done->fulfill();
  }
}

void WorkQueue::Close() {
  BeginEnd();
  thread_.Join();
}

kj::Promise<absl::Status> WorkQueue::Run(Turn turn, kj::Function<absl::Status()> work) {
  auto pair = kj::newPromiseAndCrossThreadFulfiller<void>();
  auto result = std::make_shared<absl::Status>();
  uint64_t id = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) {
      return Ending();
    }
    std::list<Entry>& queue = turn == Turn::kNext ? next_ : last_;
    if (queue.size() >= (turn == Turn::kNext ? limits_.next : limits_.last)) {
      return absl::Status(absl::ResourceExhaustedError("too many operations wait for this machine; try again later"));
    }
    id = next_id_++;
    queue.push_back({id, kj::mv(work), result, kj::mv(pair.fulfiller)});
  }
  return pair.promise.then([result] { return std::move(*result); }).attach(kj::defer([this, id] { Drop(id); }));
}

void WorkQueue::Drop(uint64_t id) {
  // Destroyed without the mutex: it may own anything.
  std::list<Entry> dropped;
  absl::MutexLock lock(&mutex_);
  for (std::list<Entry>* queue : {&next_, &last_}) {
    for (auto entry = queue->begin(); entry != queue->end(); ++entry) {
      if (entry->id == id) {
        dropped.splice(dropped.begin(), *queue, entry);
        return;
      }
    }
  }
}

bool WorkQueue::Take(std::list<Entry>& taken) {
  const auto due = [this]()
                       ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return closed_ || !next_.empty() || !last_.empty(); };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&due));
  std::list<Entry>& queue = next_.empty() ? last_ : next_;
  if (queue.empty()) {
    return false;
  }
  taken.splice(taken.begin(), queue, queue.begin());
  return true;
}

void WorkQueue::Loop() {
  std::list<Entry> taken;
  while (Take(taken)) {
    Entry& entry = taken.front();
    *entry.result = CatchOutOfMemory([&] { return entry.work(); });
    entry.done->fulfill();
    taken.clear();
  }
}

}  // namespace ferrite
