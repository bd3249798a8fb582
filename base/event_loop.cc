#include "base/event_loop.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/system/system_error.hpp>
#include <chrono>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "base/fd.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread.h"

namespace ferrite {
namespace {

using boost::system::error_code;

class AsioLoop;

// Nothing may throw out of what runs on the loop's thread: that would end the process, and the guest in it. Asio takes
// memory for each wait (that of the one before, where it fits).

// What a callback shares with its Watch: `active` is read and written on the loop's thread only.
struct FdState : std::enable_shared_from_this<FdState> {
  FdState(boost::asio::io_context& context, std::function<void()> callback)
      : descriptor(context), ready(std::move(callback)) {}

  void Wait() {
    descriptor.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                          [self = shared_from_this()](const error_code& error) {
                            if (error || !self->active) {
                              return;
                            }
                            UntilThereIsMemory([&] {
                              if (self->active) {
                                self->ready();
                              }
                            });
                            if (self->active) {
                              UntilThereIsMemory([&] { self->Wait(); });
                            }
                          });
  }
  void Stop() {
    active = false;
    error_code ignored;
    descriptor.close(ignored);
  }

  boost::asio::posix::stream_descriptor descriptor;
  std::function<void()> ready;
  bool active = true;
};

struct TimerState : std::enable_shared_from_this<TimerState> {
  TimerState(boost::asio::io_context& context, absl::Duration every, std::function<void()> callback)
      : timer(context), period(absl::ToChronoNanoseconds(every)), expired(std::move(callback)) {
    timer.expires_after(period);
  }

  void Wait() {
    timer.async_wait([self = shared_from_this()](const error_code& error) {
      if (error || !self->active) {
        return;
      }
      // What it was at is tried again when the timer expires again.
      IfThereIsMemory([&] { self->expired(); });
      if (self->active) {
        self->timer.expires_after(self->period);
        UntilThereIsMemory([&] { self->Wait(); });
      }
    });
  }
  void Stop() {
    active = false;
    timer.cancel();
  }

  boost::asio::steady_timer timer;
  std::chrono::nanoseconds period;
  std::function<void()> expired;
  bool active = true;
};

template <typename State>
class StateWatch final : public EventLoop::Watch {
 public:
  explicit StateWatch(EventLoop& loop) : loop_(loop) {}
  ~StateWatch() override {
    if (state_ != nullptr) {
      UntilThereIsMemory([this] { loop_.RunAndWait([this] { state_->Stop(); }); });
    }
  }

  void Started(std::shared_ptr<State> state) { state_ = std::move(state); }

 private:
  EventLoop& loop_;
  std::shared_ptr<State> state_;
};

class AsioLoop final : public EventLoop {
 public:
  AsioLoop() : work_(context_.get_executor()) {
    // Asio opens its files now, where a lack of them can be told, and not with the first watch.
    const boost::asio::posix::stream_descriptor descriptor(context_);
  }
  ~AsioLoop() override {
    work_.reset();
    context_.stop();
    thread_.Join();
  }

  absl::Status Start(std::string thread_name) {
    FERRITE_ASSIGN_OR_RETURN(thread_, Thread::Start(std::move(thread_name), [this] { context_.run(); }));
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Watch>> WatchReadable(int fd, std::function<void()> ready) override {
    // The descriptor object closes what it is given: give it a copy.
    FERRITE_ASSIGN_OR_RETURN(Fd copy, DuplicateOf(fd));
    auto state = std::make_shared<FdState>(context_, std::move(ready));
    error_code error;
    state->descriptor.assign(copy.get(), error);
    if (error) {
      return ErrnoStatus(error.value(), "watch a file descriptor");
    }
    copy.Release();
    return Start(std::move(state));
  }

  std::unique_ptr<Watch> WatchTimer(absl::Duration period, std::function<void()> expired) override {
    return Start(std::make_shared<TimerState>(context_, period, std::move(expired)));
  }

  void Post(std::function<void()> task) override {
    boost::asio::post(context_, [task = std::move(task)] { IfThereIsMemory(task); });
  }

  void RunAndWait(std::function<void()> task) override {
    if (thread_.IsCurrent()) {
      task();
      return;
    }
    absl::Notification done;
    absl::Status ran;
    boost::asio::post(context_, [&] {
      ran = CatchOutOfMemory([&] {
        task();
        return absl::OkStatus();
      });
      done.Notify();
    });
    done.WaitForNotification();
    if (!ran.ok()) {
      throw std::bad_alloc();
    }
  }

 private:
  // All that may find no memory comes before anything waits.
  template <typename State>
  std::unique_ptr<Watch> Start(std::shared_ptr<State> state) {
    auto watch = std::make_unique<StateWatch<State>>(*this);
    boost::asio::post(context_, [state] { UntilThereIsMemory([&] { state->Wait(); }); });
    watch->Started(std::move(state));
    return watch;
  }

  static absl::StatusOr<Fd> DuplicateOf(int fd) {
    Fd borrowed(fd);
    auto copy = borrowed.Duplicate();
    borrowed.Release();
    return copy;
  }

  boost::asio::io_context context_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  Thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create(std::string thread_name) {
  const std::string what = absl::StrCat("make the event loop ", thread_name);
  std::unique_ptr<AsioLoop> loop;
  try {
    FERRITE_RETURN_IF_ERROR(CatchOutOfMemory([&]() -> absl::Status {
      loop = std::make_unique<AsioLoop>();
      return Annotate(loop->Start(std::move(thread_name)), what);
    }));
    return loop;
  } catch (const boost::system::system_error& error) {
    return ErrnoStatus(error.code().value(), what);
  } catch (const std::system_error& error) {
    return ErrnoStatus(error.code().value(), what);
  }
}

}  // namespace ferrite
