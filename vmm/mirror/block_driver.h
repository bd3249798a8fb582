// Operations on a BlockIo, for tests: from their own thread, waited for.
#ifndef FERRITE_VMM_MIRROR_BLOCK_DRIVER_H_
#define FERRITE_VMM_MIRROR_BLOCK_DRIVER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_loop.h"
#include "base/status.h"
#include "base/timed_mutex.h"
#include "migration/api/block_io.h"

namespace ferrite {

class BlockDriver {
 public:
  using Operation = migration::BlockOperation;

  BlockDriver(EventLoop& loop, migration::BlockIo& blocks) : loop_(loop), blocks_(blocks) {}

  static Operation Make(Operation::Kind kind, uint64_t offset, uint64_t bytes, std::string* data = nullptr) {
    Operation operation;
    operation.kind = kind;
    operation.offset = offset;
    operation.bytes = bytes;
    operation.data = data == nullptr ? nullptr : reinterpret_cast<uint8_t*>(data->data());
    return operation;
  }

  // Submits them together.
  void Start(const std::vector<Operation*>& operations) {
    {
      TimedMutexLock lock(&mutex_);
      in_flight_ += operations.size();
    }
    loop_.RunAndWait([&] {
      on_stack_ = true;
      for (Operation* operation : operations) {
        operation->done = [this](Operation&) {
          // With nothing of the submitter's on the stack.
          FERRITE_CHECK(!on_stack_);
          TimedMutexLock lock(&mutex_);
          --in_flight_;
        };
        blocks_.Submit(*operation);
      }
      blocks_.Kick();
      on_stack_ = false;
    });
  }
  // Whether all are over by then.
  bool Await(absl::Duration limit = absl::Minutes(2)) {
    const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return in_flight_ == 0; };
    TimedMutexLock lock(&mutex_);
    return mutex_.AwaitFor(absl::Condition(&over), limit);
  }
  absl::Status Run(Operation operation) {
    Start({&operation});
    FERRITE_CHECK(Await());
    return operation.result;
  }

  absl::Status Write(uint64_t offset, std::string data) {
    return Run(Make(Operation::Kind::kWrite, offset, data.size(), &data));
  }
  // What is there, or the error's words.
  std::string Read(uint64_t offset, uint64_t bytes) {
    std::string data(bytes, '?');
    const absl::Status status = Run(Make(Operation::Kind::kRead, offset, bytes, &data));
    return status.ok() ? data : status.ToString();
  }
  absl::Status Zero(uint64_t offset, uint64_t bytes) { return Run(Make(Operation::Kind::kWriteZeroes, offset, bytes)); }
  absl::Status Discard(uint64_t offset, uint64_t bytes) { return Run(Make(Operation::Kind::kDiscard, offset, bytes)); }
  absl::Status Flush() { return Run(Make(Operation::Kind::kFlush, 0, 0)); }

 private:
  EventLoop& loop_;
  migration::BlockIo& blocks_;
  bool on_stack_ = false;  // of the loop's thread
  TimedMutex mutex_;
  size_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_BLOCK_DRIVER_H_
