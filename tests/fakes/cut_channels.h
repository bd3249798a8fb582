// Channels that close at a chosen message: decorators of a rendezvous.
#ifndef FERRITE_TESTS_FAKES_CUT_CHANNELS_H_
#define FERRITE_TESTS_FAKES_CUT_CHANNELS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <ostream>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "migration/channel/pair/pair_rendezvous.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// Empty for what is no frame of the protocol.
absl::string_view FrameName(PageFrameType type);

// Where a channel closes: at one end of it, before or after that end has sent or got `what`.
struct Cut {
  bool at_source = true;
  std::string what;  // a control message's name, or a frame's: "page ROUND", "urgent PAGES"
  bool after = false;

  auto operator<=>(const Cut&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Cut& cut);

// What passes, and where it ends. Threads: any.
class CutPlan {
 public:
  // Cuts are made one after the other, each at the first occasion.
  explicit CutPlan(std::deque<Cut> cuts = {}) : cuts_(std::move(cuts)) {}

  // Whether the channel closes here.
  bool Cuts(bool at_source, const std::string& what, bool after);
  // Cuts that did not come.
  size_t left() const {
    const absl::MutexLock lock(&mutex_);
    return cuts_.size();
  }
  // One more, behind those.
  void Add(Cut cut) {
    const absl::MutexLock lock(&mutex_);
    cuts_.push_back(std::move(cut));
  }
  // What the source says of its features; set before the move.
  uint64_t features = ~uint64_t{0};
  // Called at the source's end before a frame is put in, by the thread that does; set before the move.
  std::function<void(const PageHeader&)> on_frame;
  // Likewise, of control messages.
  std::function<void(const Message&)> on_message;

  // All that passed, at either end.
  std::set<Cut> seen() const {
    const absl::MutexLock lock(&mutex_);
    return seen_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::deque<Cut> cuts_ ABSL_GUARDED_BY(mutex_);
  std::set<Cut> seen_ ABSL_GUARDED_BY(mutex_);
};

// `place`, whose channels close as `plan`, which outlives them, says.
PairRendezvous WithCuts(PairRendezvous place, CutPlan& plan);

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_CUT_CHANNELS_H_
