// That bulk lets requests pass (R5).
#ifndef FERRITE_MIGRATION_SENDING_REQUESTS_FIRST_H_
#define FERRITE_MIGRATION_SENDING_REQUESTS_FIRST_H_

#include <atomic>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/timed_mutex.h"

namespace ferrite::migration {

// Who sends what nobody asked for looks at this before it takes on more: processors, and the link as far as it is one,
// are for the answers. Threads: any.
class RequestsFirst {
 public:
  // How long requests hold up one claim: bulk goes on, however many there are.
  static constexpr absl::Duration kMost = absl::Milliseconds(2);

  // Requests are being answered while this lives.
  class Answering {
   public:
    explicit Answering(RequestsFirst& first) : first_(first) { first_.answering_.fetch_add(1); }
    ~Answering() { first_.EndOne(); }
    Answering(const Answering&) = delete;
    Answering& operator=(const Answering&) = delete;

   private:
    RequestsFirst& first_;
  };

  // Waits until none are being answered, or kMost has passed.
  void LetPass(const Clock& clock);

 private:
  void EndOne();

  // Whoever changes one of the two looks at the other one then.
  std::atomic<int> answering_ = 0;
  std::atomic<int> waiting_ = 0;
  TimedMutex mutex_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_REQUESTS_FIRST_H_
