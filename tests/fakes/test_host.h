// A host for the engine, for tests.
#ifndef FERRITE_TESTS_FAKES_TEST_HOST_H_
#define FERRITE_TESTS_FAKES_TEST_HOST_H_

#include <cstdio>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/log_sink.h"
#include "base/thread_maker.h"
#include "base/timed_mutex.h"
#include "migration/api/host.h"

namespace ferrite::migration {

// Keeps and prints what is logged. Threads: any.
class KeptLog final : public LogSink {
 public:
  void Write(LogLevel, absl::string_view line) override {
    const TimedMutexLock lock(&mutex_);
    absl::StrAppend(&text_, line, "\n");
    (void)std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
  }

  // The lines so far.
  std::string text() const {
    const TimedMutexLock lock(&mutex_);
    return text_;
  }
  // Whether `part` was logged within 20 s.
  bool WaitFor(absl::string_view part) const {
    return WaitForText([part](absl::string_view text) { return absl::StrContains(text, part); });
  }
  // Whether the lines were such within 20 s.
  bool WaitForText(absl::FunctionRef<bool(absl::string_view text)> is_such) const {
    const auto logged = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return is_such(text_); };
    const TimedMutexLock lock(&mutex_);
    return mutex_.AwaitFor(absl::Condition(&logged), absl::Seconds(20));
  }

 private:
  mutable TimedMutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

class TestHost {
 public:
  // `clock` outlives it.
  explicit TestHost(const Clock& clock = RealClock()) : host_{.log = log_, .threads = threads_, .clock = clock} {}
  TestHost(const TestHost&) = delete;
  TestHost& operator=(const TestHost&) = delete;

  const Host& get() const { return host_; }
  const KeptLog& log() const { return log_; }

 private:
  KeptLog log_;
  ThreadMaker threads_;
  const Host host_;
};

// One for tests that ask nothing of it.
inline const Host& AnyHost() {
  static const TestHost& host = *new TestHost;
  return host.get();
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_TEST_HOST_H_
