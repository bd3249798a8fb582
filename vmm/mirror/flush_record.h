// How the flushes of one open file ended.
#ifndef FERRITE_VMM_MIRROR_FLUSH_RECORD_H_
#define FERRITE_VMM_MIRROR_FLUSH_RECORD_H_

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace ferrite {

// Linux tells of a failed writeback once per open file, and the pages that could not be written are clean afterwards:
// the next fsync(2) succeeds, and what it says is not so. After the first flush that failed all fail. (QEMU's
// block/file-posix.c: page_cache_inconsistent.) Threads: any.
class FlushRecord {
 public:
  // Notes that a flush ended with `result`. Returns what that comes to: the error of the first one that failed, if any
  // did. Throws nothing.
  absl::Status Note(const absl::Status& result) {
    const absl::MutexLock lock(&mutex_);
    first_error_.Update(result);
    return first_error_;
  }

 private:
  absl::Mutex mutex_;
  absl::Status first_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_FLUSH_RECORD_H_
