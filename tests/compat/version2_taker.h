// The destination of a move that speaks version 2 of the wire, and nothing else. It keeps the guest, and does not run
// it.
#ifndef FERRITE_TESTS_COMPAT_VERSION2_TAKER_H_
#define FERRITE_TESTS_COMPAT_VERSION2_TAKER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "tests/compat/version2_guest.h"
#include "tests/compat/version2_line.h"
#include "tests/compat/version2_secret.h"

namespace ferrite::version2 {

// Takes one guest. It is strict: what a source of version 2 may not do is an error.
//
// Threads: one, and its own for page and urgent connections.
class Taker {
 public:
  struct Options {
    uint64_t features = kAllFeatures;  // that it has
    const Tls* tls = nullptr;          // outlives it
  };
  static absl::StatusOr<std::unique_ptr<Taker>> Create(absl::string_view address, const Options& options);
  ~Taker();

  const std::string& address() const { return listener_->address(); }
  absl::StatusOr<Guest> Take();

  // What was seen.
  struct Figures {
    uint64_t features = 0;  // that both have
    size_t page_channels = 0;
    bool postcopy = false;
    uint32_t rounds = 0;
    uint64_t round_pages = 0;   // that came in rounds, zero or not
    uint64_t rest_pages = 0;    // and behind them
    uint64_t urgent_pages = 0;  // of those, in answer to a request
    uint64_t discarded_pages = 0;
  };
  const Figures& figures() const { return figures_; }

 private:
  Taker(std::unique_ptr<Listener> listener, const Options& options)
      : listener_(std::move(listener)), options_(options) {}

  absl::Status Greet();
  absl::Status TakeMachine(Control::Reader message);
  absl::Status TakeConnections();
  absl::Status TakeConnection();
  absl::Status ReceiveUntilRunning();
  absl::Status OnRound(Round::Reader round);
  absl::Status OnDiscard(Discard::Reader discard);
  absl::Status OnPackage(Package::Reader package);
  absl::Status End();

  // On the threads of page and urgent connections.
  void Run(absl::FunctionRef<absl::Status()> body);
  absl::Status ReceivePages(size_t channel);
  absl::Status ReceiveAnswers(size_t channel);
  absl::Status Place(const PageHeader& header, Line& line, bool live);
  absl::Status Mark(GuestRegion& region, const PageHeader& header, uint64_t page, PageState state, bool live);
  absl::Status ArriveAtRound(size_t channel, uint32_t round, bool& live, bool& over);

  Bytes32 Digest(Claim claim) const;
  // What has failed on any thread, or `status`.
  absl::Status FirstFailure(absl::Status status);
  absl::Status Await(absl::string_view what, absl::FunctionRef<bool()> condition);
  uint64_t Count(PageState state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::unique_ptr<Listener> listener_;
  const Options options_;
  std::unique_ptr<Talk> talk_;
  Preamble preamble_;  // of the control connection
  Greeting greeting_;
  Bytes32 bound_nonce_{};  // of WELCOME's
  Bytes32 secret_{};
  // By index; null before they are here.
  std::vector<std::unique_ptr<Line>> page_;
  std::vector<std::unique_ptr<Line>> urgent_;
  std::vector<Thread> threads_;

  TimedMutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> reached_ ABSL_GUARDED_BY(mutex_);  // the last round that each page connection ended
  uint32_t open_ ABSL_GUARDED_BY(mutex_) = 0;              // connections go on behind that round
  bool live_ ABSL_GUARDED_BY(mutex_) = false;              // the rounds are over, and memory is missing
  bool over_ ABSL_GUARDED_BY(mutex_) = false;              // the rounds are over, and all is here
  size_t ended_ ABSL_GUARDED_BY(mutex_) = 0;               // page connections that said that nothing follows
  bool all_here_ ABSL_GUARDED_BY(mutex_) = false;          // END was said, rightly
  // In which round a page came last: once in each.
  std::vector<std::vector<uint32_t>> came_in_ ABSL_GUARDED_BY(mutex_);
  Guest guest_ ABSL_GUARDED_BY(mutex_);
  Figures figures_;
};

}  // namespace ferrite::version2

#endif  // FERRITE_TESTS_COMPAT_VERSION2_TAKER_H_
