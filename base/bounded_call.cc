#include "base/bounded_call.h"

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "base/out_of_memory.h"
#include "base/thread.h"
#include "base/timed_mutex.h"

namespace ferrite {
namespace {

struct Call {
  std::function<absl::Status()> work;
  std::function<void()> late;

  TimedMutex mutex;
  bool is_over ABSL_GUARDED_BY(mutex) = false;
  bool is_given_up ABSL_GUARDED_BY(mutex) = false;
  absl::Status result ABSL_GUARDED_BY(mutex);
};

void Run(Call& call) {
  absl::Status result = CatchOutOfMemory(call.work);
  bool is_late = false;
  {
    const TimedMutexLock lock(&call.mutex);
    call.result = std::move(result);
    call.is_over = true;
    is_late = call.is_given_up;
  }
  if (is_late) {
    call.late();
  }
}

}  // namespace

std::optional<absl::Status> RunBounded(std::string name, absl::Duration limit, std::function<absl::Status()> work,
                                       std::function<void()> late) {
  const auto call = std::make_shared<Call>();
  call->work = std::move(work);
  call->late = std::move(late);
  auto thread = Thread::Start(std::move(name), [call] { Run(*call); });
  if (!thread.ok()) {
    return thread.status();
  }
  {
    const TimedMutexLock lock(&call->mutex);
    if (!call->mutex.AwaitFor(absl::Condition(&call->is_over), limit)) {
      call->is_given_up = true;
      thread->Detach();
      return std::nullopt;
    }
  }
  thread->Join();
  const TimedMutexLock lock(&call->mutex);
  return call->result;
}

}  // namespace ferrite
