// AsyncIo that does what a test says, when it says it.
#ifndef FERRITE_TESTS_FAKES_FAKE_ASYNC_IO_H_
#define FERRITE_TESTS_FAKES_FAKE_ASYNC_IO_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "base/status.h"
#include "devices/block/async_io.h"
#include "devices/block/io_request.h"

namespace ferrite {

// Keeps every request until Finish(), in the order that the test chooses. Carries out reads, writes and the rest with
// real calls on the real file, unless told to fail. Threads: the loop's.
class FakeAsyncIo final : public AsyncIo {
 public:
  ~FakeAsyncIo() override { FERRITE_CHECK(submitted_.empty() && started_.empty() && done_.empty()); }

  void SetListener(std::function<void()> listener) override { listener_ = std::move(listener); }
  void Submit(IoRequest& request) override { submitted_.push_back(&request); }
  void Kick() override {
    started_.insert(started_.end(), submitted_.begin(), submitted_.end());
    submitted_.clear();
  }
  IoRequest* PopDone() override {
    if (done_.empty()) {
      return nullptr;
    }
    IoRequest* request = done_.front();
    done_.pop_front();
    return request;
  }

  // Requests that were kicked and are not finished, oldest first.
  const std::vector<IoRequest*>& started() const { return started_; }

  // Finishes started()[index]: carries it out in calls that move at most `short_count` bytes each (0: no limit).
  void Finish(size_t index, size_t short_count = 0) {
    IoRequest& request = *started_.at(index);
    request.Begin();
    for (bool over = false; !over;) {
      IoCall call = request.NextCall();
      std::vector<iovec> buffers(call.buffers.begin(), call.buffers.end());
      if (short_count > 0 && !buffers.empty()) {
        buffers.resize(1);
        buffers[0].iov_len = std::min(buffers[0].iov_len, short_count);
        call.buffers = buffers;
      }
      over = request.Finish(MakeCall(call));
    }
    Report(index);
  }
  // Finishes it with `error`, nothing done.
  void Fail(size_t index, int error) {
    started_.at(index)->Begin();
    started_.at(index)->error = error;
    Report(index);
  }

 private:
  void Report(size_t index) {
    done_.push_back(started_[index]);
    started_.erase(started_.begin() + static_cast<ptrdiff_t>(index));
    listener_();
  }

  std::function<void()> listener_;
  std::vector<IoRequest*> submitted_;
  std::vector<IoRequest*> started_;
  std::deque<IoRequest*> done_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FAKE_ASYNC_IO_H_
