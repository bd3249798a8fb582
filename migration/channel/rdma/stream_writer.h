// Several threads that write to one stream, which may end before them.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_STREAM_WRITER_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_STREAM_WRITER_H_

#include <cstdint>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "migration/channel/socket/stream.h"

namespace ferrite::migration {

// Threads: any.
class StreamWriter {
 public:
  // The stream lives until Close().
  explicit StreamWriter(Stream& stream) : stream_(&stream) {}

  absl::Status Write(std::span<const uint8_t> bytes) {
    const absl::MutexLock lock(&mutex_);
    return stream_ != nullptr ? stream_->WriteAll(bytes) : absl::UnavailableError("the channel was closed here");
  }
  // What is written from here on goes nowhere. Waits for what is being written.
  void Close() {
    const absl::MutexLock lock(&mutex_);
    stream_ = nullptr;
  }

 private:
  absl::Mutex mutex_;
  Stream* stream_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_STREAM_WRITER_H_
