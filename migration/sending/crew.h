// Threads that do one job after the other together.
#ifndef FERRITE_MIGRATION_SENDING_CREW_H_
#define FERRITE_MIGRATION_SENDING_CREW_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/thread.h"
#include "base/thread_class.h"
#include "base/thread_maker.h"

namespace ferrite::migration {

// They are made once: a job that is urgent waits for none to be made. Threads: one at a time.
class Crew {
 public:
  // Does the part of the thread `index`.
  using Job = std::function<absl::Status(size_t index)>;

  // `count` threads named "NAME-INDEX". `threads` outlives it.
  static absl::StatusOr<std::unique_ptr<Crew>> Create(ThreadMaker& threads, absl::string_view name,
                                                      ThreadClass its_class, size_t count);
  // Waits for a job that is on.
  ~Crew();

  // Has all of them do `job`, when none is on.
  void Begin(Job job);
  // Waits for the end of the last job: the first error, by index.
  absl::Status Await();

 private:
  explicit Crew(size_t count) : results_(count) {}
  void Work(size_t index);

  absl::Mutex mutex_;
  Job job_ ABSL_GUARDED_BY(mutex_);
  uint64_t serial_ ABSL_GUARDED_BY(mutex_) = 0;  // of the job
  size_t busy_ ABSL_GUARDED_BY(mutex_) = 0;      // threads that are at it
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<absl::Status> results_ ABSL_GUARDED_BY(mutex_);
  std::vector<Thread> threads_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_CREW_H_
