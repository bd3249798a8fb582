// Where the two sides of a move meet: who opens a channel, and who takes it.
//
// Every channel begins with the source's preamble (docs/wire_format.md, "Preamble"): of which move it is, and in which
// role. In every role but kControl the destination answers with a challenge, and the source with a proof that it
// belongs to the move. What carries this is the kind's affair: socket/ and pair/ are kinds.
#ifndef FERRITE_MIGRATION_CHANNEL_RENDEZVOUS_H_
#define FERRITE_MIGRATION_CHANNEL_RENDEZVOUS_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "migration/channel/control_channel.h"
#include "migration/channel/outside_writers.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/page_sink.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/secret/proof_bytes.h"

namespace ferrite::migration {

// The source's side. The same one opens all channels of a move, and those of its recovery.
//
// Errors: UNAVAILABLE or that of the kind when nobody takes the channel, DEADLINE_EXCEEDED when nobody did in time,
// CANCELLED.
//
// Threads: one at a time; where() from any.
class ChannelOpener {
 public:
  virtual ~ChannelOpener() = default;

  using Prove = std::function<absl::StatusOr<ChannelProof>(const Preamble& preamble, const Nonce& challenge)>;

  struct Terms {
    absl::Duration limit;     // for it to be taken, and for its challenge
    absl::Duration patience;  // of the channel, as ControlChannel::SetPatience()
    const EventFd& cancel;    // ends the wait as soon as it is signalled (it stays so)
    Prove prove = nullptr;    // answers the challenge; not asked in the role of kControl
    bool reached = false;     // set when somebody took it, also if it broke afterwards
  };
  // Each sends `preamble`, of the role that it opens.
  virtual absl::StatusOr<std::unique_ptr<ControlChannel>> OpenControl(const Preamble& preamble, Terms& terms) = 0;
  virtual absl::StatusOr<std::unique_ptr<PageSink>> OpenPages(const Preamble& preamble, Terms& terms) = 0;
  virtual absl::StatusOr<std::unique_ptr<UrgentSink>> OpenUrgent(const Preamble& preamble, Terms& terms) = 0;

  // What the page channels that are opened next send pages of, by region: for kinds that register memory. It outlives
  // these channels. A region without memory is empty, and those behind the last one are, too.
  virtual void SetMemory(std::vector<std::span<uint8_t>> /*regions*/) {}

  // For people, and for the record of GRANT: "tcp:host:7000".
  virtual std::string where() const = 0;
};

// A channel that has come. One of the Take methods, once; without it the channel is closed.
class IncomingChannel {
 public:
  virtual ~IncomingChannel() = default;

  // INVALID_ARGUMENT when it began with something else.
  virtual absl::StatusOr<Preamble> preamble() const = 0;
  // What it answered to the challenge that was made for it; none in the role of kControl.
  virtual std::optional<ChannelProof> proof() const = 0;
  // For messages.
  virtual const std::string& peer() const = 0;
  // Whose it is, as far as many of them can be one's (crowd.h).
  virtual const std::string& origin() const = 0;

  virtual std::unique_ptr<ControlChannel> TakeControl(absl::Duration patience) = 0;
  virtual std::unique_ptr<PageFeed> TakePages(absl::Duration patience) = 0;
  virtual std::unique_ptr<UrgentFeed> TakeUrgent(absl::Duration patience) = 0;
};

// The destination's side. Threads: one at a time.
class ChannelAcceptor {
 public:
  virtual ~ChannelAcceptor() = default;

  // The next channel that has said who it is, and has answered its challenge, if not rightly. CANCELLED as soon as
  // `cancel` is signalled, DEADLINE_EXCEEDED at the deadline.
  virtual absl::StatusOr<std::unique_ptr<IncomingChannel>> Next(
      const EventFd& cancel, MonotonicTime deadline = MonotonicTime::InfiniteFuture()) = 0;
  // One that was for somebody else to take: the first that Next() returns.
  virtual void PutBack(std::unique_ptr<IncomingChannel> channel) = 0;

  // Where pages of the move's page channels belong, by region, as far as they may be written there from outside: before
  // the first of them is taken, and once. Of a kind that has the source write them: who does, and may be told to end;
  // else null. What is handed over outlives OutsideWriters::End().
  virtual absl::StatusOr<std::shared_ptr<OutsideWriters>> SetMemory(std::vector<std::span<uint8_t>> /*regions*/) {
    return nullptr;
  }
  // The machine is made: what was kept for it (descriptors, say) is not kept any more.
  virtual void KeepNothing() {}
  // `let_go` closes a channel that came through here and is waited for elsewhere; false when there is none. It is
  // asked, on the thread of Next(), when there is no room for another one and none waits in here. May be empty.
  virtual void SetLetGo(std::function<bool()> let_go) { (void)let_go; }
  // `on_dropped` hears of each that is dropped here, and why. May be empty.
  virtual void SetOnDropped(std::function<void(const std::string& peer, absl::string_view why)> on_dropped) {
    (void)on_dropped;
  }
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RENDEZVOUS_H_
