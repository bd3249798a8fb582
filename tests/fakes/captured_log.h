// What is logged while it lives, for tests.
#ifndef FERRITE_TESTS_FAKES_CAPTURED_LOG_H_
#define FERRITE_TESTS_FAKES_CAPTURED_LOG_H_

#include <spdlog/sinks/base_sink.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/timed_mutex.h"

namespace ferrite {

// Takes the place of Log()'s logger. Any thread may log, and ask.
class CapturedLog {
 public:
  CapturedLog() : before_(spdlog::default_logger()), sink_(std::make_shared<Sink>()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("test", sink_));
  }
  ~CapturedLog() { spdlog::set_default_logger(before_); }
  CapturedLog(const CapturedLog&) = delete;
  CapturedLog& operator=(const CapturedLog&) = delete;

  // The messages so far, a line each.
  std::string text() const { return sink_->text(); }
  // Whether `part` was logged within 20 s.
  bool WaitFor(absl::string_view part) const { return sink_->WaitFor(part); }

 private:
  class Sink final : public spdlog::sinks::sink {
   public:
    void log(const spdlog::details::log_msg& message) override {
      TimedMutexLock lock(&mutex_);
      text_.append(message.payload.data(), message.payload.size()).append("\n");
    }
    void flush() override {}
    void set_pattern(const std::string&) override {}
    void set_formatter(std::unique_ptr<spdlog::formatter>) override {}

    std::string text() const {
      TimedMutexLock lock(&mutex_);
      return text_;
    }
    bool WaitFor(absl::string_view part) const {
      const auto logged = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return absl::StrContains(text_, part); };
      TimedMutexLock lock(&mutex_);
      return mutex_.AwaitFor(absl::Condition(&logged), absl::Seconds(20));
    }

   private:
    mutable TimedMutex mutex_;
    std::string text_ ABSL_GUARDED_BY(mutex_);
  };

  const std::shared_ptr<spdlog::logger> before_;
  const std::shared_ptr<Sink> sink_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_CAPTURED_LOG_H_
