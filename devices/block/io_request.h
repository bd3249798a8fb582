// One operation on an open file, and the system calls that it takes.
#ifndef FERRITE_DEVICES_BLOCK_IO_REQUEST_H_
#define FERRITE_DEVICES_BLOCK_IO_REQUEST_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace ferrite {

// A system call to make: preadv(2), pwritev(2), fdatasync(2) or fallocate(2).
struct IoCall {
  enum class Kind { kRead, kWrite, kSync, kAllocate };

  Kind kind;
  int fd;
  uint64_t offset = 0;             // in bytes
  std::span<const iovec> buffers;  // kRead, kWrite; at most IOV_MAX
  uint64_t bytes = 0;              // kAllocate
  int mode = 0;                    // kAllocate: FALLOC_FL_*
};

// Makes the call and waits for it. Returns what it returned: a count, or a negative errno value.
int64_t MakeCall(const IoCall& call);

// Who submits a request (AsyncIo) owns it, and leaves it and the memory that its buffers name alone until it is done;
// then it may be filled in anew and submitted again.
class IoRequest {
 public:
  enum class Kind {
    kRead,
    kWrite,
    kFlush,        // what was written before it was submitted is on the disk
    kDiscard,      // the contents are not needed any more; a file that cannot have holes keeps them, without an error
    kWriteZeroes,  // reads as zero afterwards, whatever the file system can do
  };

  Kind kind = Kind::kRead;
  int fd = -1;
  uint64_t offset = 0;         // in bytes
  uint64_t bytes = 0;          // of kDiscard and kWriteZeroes, not 0
  bool unmap = false;          // kWriteZeroes: a hole will do
  std::vector<iovec> buffers;  // of kRead and kWrite, at least one byte in all; used up
  int error = 0;               // the outcome: 0 or an errno value

  // None of these takes memory: a request that was begun comes to its end.
  //
  // Makes all calls that it takes, and waits for them. `error` is set then.
  void CarryOut();

  // For those who make them otherwise: the calls, one after the other. A short read or write goes on, EINTR and EAGAIN
  // are tried again (not for ever), and there is another way where the file system cannot do what is asked. Begin(),
  // and then NextCall() and Finish() by turns until that returns true.
  void Begin();
  // Its buffers are valid until Finish().
  IoCall NextCall() const;
  // Takes what the call returned. True when the request is over: `error` is set.
  bool Finish(int64_t result);

 private:
  friend class IoRequestQueue;
  bool FinishTransfer(uint64_t moved);
  bool FinishRefusedAllocate(int refusal);
  void PrepareZeroes();
  bool Over(int outcome) {
    error = outcome;
    return true;
  }

  IoCall::Kind call_ = IoCall::Kind::kRead;
  int mode_ = 0;
  int tries_ = 0;
  std::span<iovec> buffers_left_;  // of `buffers`, or zeroes_
  uint64_t next_offset_ = 0;
  iovec zeroes_ = {};
  uint64_t zeroes_left_ = 0;  // that zeroes_ does not name yet

  IoRequest* next_ = nullptr;  // in the queue that it is in
};

// Requests in a row, first in, first out. Takes no memory: they are linked to one another, and so each is in one queue
// at the most. Not the owner of them. Threads: one at a time.
class IoRequestQueue {
 public:
  bool empty() const { return first_ == nullptr; }
  void Push(IoRequest& request);
  // Null when it is empty.
  IoRequest* Pop();
  // Takes all of `other`, in their order.
  void Append(IoRequestQueue& other);

 private:
  IoRequest* first_ = nullptr;
  IoRequest* last_ = nullptr;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_IO_REQUEST_H_
