// The parts of a move whose writers wait until the destination has what they wrote, and the time of that.
#ifndef FERRITE_MIGRATION_SENDING_BLOCKING_PARTS_H_
#define FERRITE_MIGRATION_SENDING_BLOCKING_PARTS_H_

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/api/host.h"
#include "migration/sending/outgoing_part.h"

namespace ferrite::migration {

// Who wrote waits for kMostHeld at the most, whatever the move's thread waits for meanwhile: a connection that nobody
// reads from, storage at either end that stalls, the limit of the rate. A thread of its own, "mig-src-held", sees to
// that. It looks at all parts each kMostHeld at least, and otherwise sleeps; while no part is blocking it does nothing.
//
// Threads: the move's.
class BlockingParts {
 public:
  // How long who writes to a part that is blocking waits for it to arrive.
  static constexpr absl::Duration kMostHeld = absl::Seconds(1);

  // `host` outlives it.
  explicit BlockingParts(const Host& host) : host_(host) {}
  ~BlockingParts() { Stop(); }
  BlockingParts(const BlockingParts&) = delete;
  BlockingParts& operator=(const BlockingParts&) = delete;

  // Makes the thread. Before the first Add(), and not behind Stop().
  absl::Status Start();
  // `part` is blocking from here on, until End(). Whether it does so; if it does, it outlives that.
  bool Add(OutgoingPart& part);
  bool empty() const;
  // The destination has what OutgoingPart::Delivered() says.
  void Delivered();
  // None is blocking any more: all who wait are answered. Throws nothing.
  void End();
  // The same, for good: the thread ends, too.
  void Stop();

 private:
  void Watch();

  const Host& host_;
  // Held for each call of a part that both threads make: a part whose blocking is over is not touched any more.
  mutable TimedMutex mutex_;
  std::vector<OutgoingPart*> parts_ ABSL_GUARDED_BY(mutex_);
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_BLOCKING_PARTS_H_
