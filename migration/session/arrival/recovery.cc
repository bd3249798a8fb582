#include "migration/session/arrival/recovery.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/cancel_token.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "memory/page_range.h"
#include "migration/channel/connection_lost.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/version.h"
#include "migration/secret/move_secret.h"
#include "migration/session/arrival/channels.h"
#include "migration/session/arrival/handover.h"
#include "migration/session/arrival/handshake.h"
#include "migration/session/decisions.h"
#include "migration/session/door.h"

namespace ferrite::migration {
namespace {

// Before what this host had no room for is tried again.
constexpr absl::Duration kRetryPause = absl::Milliseconds(250);

// Nothing is received at the moment: the states stand still, but for pages that faults ask for.
absl::Status SendMissing(Arrival& arrival) {
  return TellMissing(arrival, [&arrival](std::vector<PageRange> missing, bool last) {
    return arrival.peer().Send(message::Missing{.ranges = std::move(missing), .last = last});
  });
}

// Whether `channel` is of the source, of a GRANT that may have come here. Nobody waits for the answer, and who is not
// changes nothing.
absl::Status CheckSource(Arrival& arrival, IncomingChannel& channel) {
  FERRITE_ASSIGN_OR_RETURN(const Preamble preamble, ReadPreamble(channel));
  const bool is_ours = preamble.move_id == arrival.terms.id;
  if (!is_ours || preamble.role != ChannelRole::kRecover || preamble.index != 0) {
    if (!is_ours && HasControlFrames(preamble.role)) {
      TurnAway(channel, kBusy);
    }
    return absl::InvalidArgumentError("it is not the source of this move");
  }
  const std::optional<ChannelProof> proof = channel.proof();
  FERRITE_RETURN_IF_ERROR(arrival.credentials.CheckChannel(preamble, proof));
  if (DecideOnRecover(arrival.shared.state().get(), arrival.epoch, proof->epoch) == OnRecover::kWrongEpoch) {
    return absl::InvalidArgumentError(
        absl::StrCat("it is of epoch ", proof->epoch, ", but GRANT was of epoch ", arrival.epoch));
  }
  return absl::OkStatus();
}

// The next connection of the source's; others are dropped, at no more cost than that.
absl::StatusOr<std::unique_ptr<IncomingChannel>> AwaitSource(Arrival& arrival, ChannelAcceptor& acceptor,
                                                             MonotonicTime until) {
  while (true) {
    FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<IncomingChannel> channel,
                             acceptor.Next(arrival.link.broken().event(), until));
    const absl::Status is_source = CheckSource(arrival, *channel);
    if (is_source.ok()) {
      return channel;
    }
    arrival.drops.Log(channel->peer(), is_source.message());
    if (arrival.Now() >= until) {
      return absl::DeadlineExceededError("the source did not come back in time");
    }
  }
}

absl::Status CheckRecover(const Arrival& arrival, const message::Recover& recover, OnRecover standing,
                          uint64_t proved_epoch) {
  if (standing == OnRecover::kOver) {
    return absl::CancelledError(absl::StrCat("the move is ", MoveStateName(arrival.shared.state().get())));
  }
  if (standing == OnRecover::kWrongEpoch || recover.epoch != proved_epoch) {
    return absl::InvalidArgumentError(absl::StrCat("RECOVER: epoch ", recover.epoch, " over a connection of epoch ",
                                                   proved_epoch, ", and GRANT was of epoch ", arrival.epoch));
  }
  if (recover.move_id != arrival.terms.id || recover.page_channels < 1 || recover.page_channels > kMaxChannels ||
      recover.urgent_channels < 1 || recover.urgent_channels > kMaxChannels) {
    return absl::InvalidArgumentError(absl::StrCat("RECOVER: another move, or ", recover.page_channels, " page and ",
                                                   recover.urgent_channels, " urgent channels"));
  }
  return absl::OkStatus();
}

// GRANT did not arrive before the connection was lost: it comes again, or never will.
absl::Status AwaitGrantOrRevoke(Arrival& arrival) {
  FERRITE_ASSIGN_OR_RETURN(const Message word, arrival.peer().Next(arrival.options.patience));
  if (std::holds_alternative<message::Revoke>(word)) {
    arrival.revoked = true;
    (void)arrival.peer().Send(message::Revoked{});
    return absl::CancelledError("the source took the guest back");
  }
  const auto* const grant = std::get_if<message::Grant>(&word);
  if (grant == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("the source sent ", MessageName(word), " where GRANT or REVOKE was due"));
  }
  return TakeOver(arrival, *grant);
}

// What is still to be copied comes over channels of its own, in rounds that are numbered anew.
absl::Status ReceiveAgain(Arrival& arrival, ChannelAcceptor& acceptor) {
  arrival.peer().SetMostBytes(kMaxControlBytes);
  arrival.MakeGate();
  FERRITE_RETURN_IF_ERROR(AcceptChannels(arrival, acceptor));
  return StartReceivers(arrival, /*live=*/false);
}

// RECOVER, STANDING, MISSING with the source, which came over `channel`.
absl::Status Resume(Arrival& arrival, IncomingChannel& channel, ChannelAcceptor& acceptor) {
  const ChannelProof proof = *channel.proof();
  arrival.credentials.SetControl(proof);
  FERRITE_ASSIGN_OR_RETURN(
      std::unique_ptr<ControlPeer> peer,
      ControlPeer::Create(arrival.host, channel.TakeControl(arrival.options.silence),
                          {.thread_name = "mig-dst-ctl",
                           .peer_name = "the source",
                           .silence = arrival.options.silence,
                           .most_bytes = kMaxGreetingBytes},
                          [&broken = arrival.link.broken()](const absl::Status& why) { broken.Cancel(why); }));
  arrival.link.SetPeer(std::move(peer));
  FERRITE_ASSIGN_OR_RETURN(const message::Recover recover,
                           arrival.peer().Expect<message::Recover>(arrival.options.patience));
  MoveStateMachine& state = arrival.shared.state();
  const OnRecover standing = DecideOnRecover(state.get(), arrival.epoch, recover.epoch);
  FERRITE_RETURN_IF_ERROR(CheckRecover(arrival, recover, standing, proof.epoch));
  const bool granted = standing == OnRecover::kGranted;
  arrival.terms.page_channels = recover.page_channels;
  arrival.terms.urgent_channels = recover.urgent_channels;
  FERRITE_ASSIGN_OR_RETURN(const Digest digest,
                           arrival.credentials.Prove(granted ? Claim::kGranted : Claim::kStanding, recover.epoch));
  FERRITE_RETURN_IF_ERROR(arrival.peer().Send(message::Standing{.granted = granted, .digest = digest}));
  if (standing == OnRecover::kCopying) {
    return ReceiveAgain(arrival, acceptor);
  }
  if (!granted) {
    FERRITE_RETURN_IF_ERROR(AwaitGrantOrRevoke(arrival));
  }
  FERRITE_RETURN_IF_ERROR(SendMissing(arrival));
  FERRITE_RETURN_IF_ERROR(AcceptChannels(arrival, acceptor));
  arrival.link.LetPeerOutlast();
  if (state.Change(MoveState::kPostcopyPaused, MoveState::kPostcopyRecover)) {
    FERRITE_CHECK(state.Change(MoveState::kPostcopyRecover, MoveState::kPostcopyActive));
  }
  if (arrival.armed && !arrival.settled) {
    FERRITE_RETURN_IF_ERROR(ServeFaults(arrival, /*asks_again=*/true));
    FERRITE_RETURN_IF_ERROR(StartReceivers(arrival, /*live=*/true));
  } else {
    ReceiveNothing(arrival);
  }
  return absl::OkStatus();
}

// One look at the door: whether the source is back. An error ends the wait.
absl::StatusOr<bool> LookForSource(Arrival& arrival, ChannelAcceptor& acceptor, MonotonicTime hold_until) {
  MoveStateMachine& state = arrival.shared.state();
  const bool misses_pages = MissesPages(state.get(), arrival.settled);
  if (misses_pages) {
    (void)state.Change(MoveState::kPostcopyActive, MoveState::kPostcopyPaused);
  }
  if (state.get() == MoveState::kActive) {
    // Who waits at the end of a round does not any more.
    arrival.link.broken().Cancel(absl::UnavailableError("the connection was lost"));
  }
  // The threads have failed with the connection; what they had asked for, or were receiving, is asked for again.
  arrival.link.Close();
  const CancelToken::Callback on_leave(arrival.shared.leave(),
                                       [&arrival](const absl::Status& why) { arrival.link.broken().Cancel(why); });
  MonotonicTime until = misses_pages ? MonotonicTime::InfiniteFuture() : hold_until;
  if (arrival.armed && !arrival.settled) {
    // Zero pages that nobody has touched yet are here, and fault all the same: also when nobody waits for the source.
    if (const absl::Status served = ServeFaults(arrival, /*asks_again=*/false); !served.ok()) {
      // Who faults waits, and is seen to at the next look.
      arrival.drops.Tell(absl::StrCat("the guest's faults are not seen to: ", served.message()));
      until = std::min(until, arrival.Now() + kRetryPause);
    }
  }
  if (arrival.cancelled() || arrival.leaving()) {
    return absl::CancelledError("the wait for the source was ended");
  }
  absl::StatusOr<std::unique_ptr<IncomingChannel>> next = AwaitSource(arrival, acceptor, until);
  if (absl::IsDeadlineExceeded(next.status()) && (misses_pages || arrival.Now() < hold_until)) {
    return false;
  }
  if (!next.ok()) {
    return next.status();
  }
  IncomingChannel& channel = **next;
  const std::string who = channel.peer();
  const absl::Status resumed = CatchOutOfMemory([&] { return Resume(arrival, channel, acceptor); });
  if (resumed.ok()) {
    arrival.host.log.Info("receive: the source is back");
    return true;
  }
  if (arrival.revoked || state.get() == MoveState::kFailing) {
    return resumed;
  }
  arrival.drops.Log(who, resumed.message());
  if (arrival.link.peer() != nullptr && absl::IsResourceExhausted(resumed) && state.get() != MoveState::kActive) {
    // What this side lacks: the source tries again.
    arrival.peer().SendLastWords(resumed);
  }
  return false;
}

}  // namespace

bool MayComeBack(Arrival& arrival, const absl::Status& failure) {
  const ControlPeer* const peer = arrival.link.peer();
  const MoveState state = arrival.shared.state().get();
  bool lost = peer != nullptr && !peer->failure().ok();
  if (state == MoveState::kActive && peer != nullptr) {
    // What went wrong here is no matter of the connection. Where another channel broke, the source closes this one, or
    // says why.
    lost = IsConnectionLost(failure);
    if (lost) {
      peer->AwaitFailure(arrival.options.silence, &arrival.shared.cancel());
    }
  }
  return DecideMayComeBack(state, {.can_recover = (arrival.terms.features & kFeatureRecovery) != 0,
                                   .can_resume = (arrival.terms.features & kFeatureResume) != 0,
                                   .ends_here = arrival.cancelled() || arrival.leaving(),
                                   .loaded = arrival.loaded,
                                   .lost = lost,
                                   .said_why = peer != nullptr && peer->said_why()});
}

absl::Status Recover(Arrival& arrival, ChannelAcceptor& acceptor) {
  const MonotonicTime hold_until = arrival.Now() + arrival.options.hold_for;
  while (true) {
    bool is_back = false;
    absl::Status over;
    const absl::Status looked = CatchOutOfMemory([&]() -> absl::Status {
      const absl::StatusOr<bool> back = LookForSource(arrival, acceptor, hold_until);
      over = back.status();
      is_back = back.ok() && *back;
      return absl::OkStatus();
    });
    if (!over.ok() || is_back) {
      return over;
    }
    if (!looked.ok()) {
      // The guest is not lost for want of memory to look for its source with.
      (void)arrival.shared.leave().WaitFor(arrival.host.clock, kRetryPause);
    }
  }
}

}  // namespace ferrite::migration
