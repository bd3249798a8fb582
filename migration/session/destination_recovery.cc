// The destination when a connection was lost behind LOADED (docs/move.md).
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/timed_mutex.h"
#include "memory/page_range.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/version.h"
#include "migration/session/destination.h"
#include "migration/session/door.h"
#include "migration/session/greeter.h"

namespace ferrite::migration {
namespace {

// Before what this host had no room for is tried again.
constexpr absl::Duration kRetryPause = absl::Milliseconds(250);

}  // namespace

bool Destination::MayComeBack() const {
  if ((features_ & kFeatureRecovery) == 0 || cancelled_ || leaving_) {
    return false;
  }
  switch (state_.get()) {
    case MoveState::kPostcopyActive:
      return true;
    case MoveState::kDevice:
      // Without a word of the source's: it may have sent GRANT.
      return loaded_ && !peer_->failure().ok() && !peer_->said_why();
    default:
      return false;
  }
}

absl::Status Destination::Recover(Lobby& lobby) {
  waiting_ = true;
  const absl::Cleanup waited = [this] { waiting_ = false; };
  const MonotonicTime hold_until = MonotonicTime::Now() + options_.hold_for;
  while (true) {
    bool is_back = false;
    absl::Status over;
    const absl::Status looked = CatchOutOfMemory([&]() -> absl::Status {
      const absl::StatusOr<bool> back = LookForSource(lobby, hold_until);
      over = back.status();
      is_back = back.ok() && *back;
      return absl::OkStatus();
    });
    if (!over.ok() || is_back) {
      return over;
    }
    if (!looked.ok()) {
      // The guest is not lost for want of memory to look for its source with.
      Break(looked);
      absl::SleepFor(kRetryPause);
    }
  }
}

absl::StatusOr<bool> Destination::LookForSource(Lobby& lobby, MonotonicTime hold_until) {
  const bool misses_pages = !settled_ && state_.get() != MoveState::kDevice;
  if (misses_pages) {
    (void)state_.Change(MoveState::kPostcopyActive, MoveState::kPostcopyPaused);
  }
  // Their threads have failed with the connection; what they had asked for, or were receiving, is asked for again.
  StopFaults();
  receivers_.clear();
  AdoptPeer(nullptr);
  // Whoever wants this to end says so before it signals: either it is seen here, or its signal is still to come.
  cancel_.Drain();
  const bool ends = cancelled_ || leaving_;
  {
    const TimedMutexLock lock(&mutex_);
    broken_ = absl::OkStatus();
  }
  MonotonicTime until = misses_pages ? MonotonicTime::InfiniteFuture() : hold_until;
  if (userfault_ != nullptr && !settled_) {
    // Zero pages that nobody has touched yet are here, and fault all the same: also when nobody waits for the source.
    if (const absl::Status served = ServeFaults({}, /*ask_again=*/false); !served.ok()) {
      // Who faults waits, and is seen to at the next look.
      drops_.Tell(absl::StrCat("the guest's faults are not seen to: ", served.message()));
      until = std::min(until, MonotonicTime::Now() + kRetryPause);
    }
  }
  if (ends) {
    return absl::CancelledError("the wait for the source was ended");
  }
  absl::StatusOr<Lobby::Arrival> next = lobby.Next(cancel_, until);
  if (absl::IsDeadlineExceeded(next.status()) && (misses_pages || MonotonicTime::Now() < hold_until)) {
    return false;
  }
  FERRITE_ASSIGN_OR_RETURN(Lobby::Arrival arrival, std::move(next));
  const std::string who = arrival.stream->peer();
  const absl::StatusOr<Preamble> preamble = ReadPreamble(arrival);
  if (!preamble.ok() || preamble->role != ChannelRole::kControl || preamble->move_id != id_) {
    if (preamble.ok() && preamble->role == ChannelRole::kControl) {
      TurnAway(*arrival.stream, kBusy);
    }
    drops_.Log(who, preamble.ok() ? "it is not the source of this move" : preamble.status().message());
    return false;
  }
  arrival.stream->SetPatience(options_.silence);
  const absl::Status resumed = CatchOutOfMemory([&] { return Resume(std::move(arrival.stream), lobby); });
  if (resumed.ok()) {
    Log().info("receive: the source is back");
    return true;
  }
  if (revoked_ || state_.get() == MoveState::kFailing) {
    return resumed;
  }
  drops_.Log(who, resumed.message());
  if (peer_ != nullptr && absl::IsResourceExhausted(resumed)) {
    // What this side lacks: the source tries again.
    peer_->SendLastWords(resumed);
  }
  Break(resumed);
  return false;
}

absl::Status Destination::Resume(std::unique_ptr<Stream> stream, Lobby& lobby) {
  FERRITE_RETURN_IF_ERROR(SetPeer(std::move(stream)));
  if (leaving_) {
    // Or Leave() sees this connection, and ends its waiting.
    return absl::CancelledError("the wait for the source was ended");
  }
  FERRITE_ASSIGN_OR_RETURN(const message::Recover recover, peer_->Expect<message::Recover>(options_.patience));
  const MoveState now = state_.get();
  const bool granted =
      now == MoveState::kPostcopyActive || now == MoveState::kPostcopyPaused || now == MoveState::kPostcopyRecover;
  if (!granted && now != MoveState::kDevice) {
    return absl::CancelledError(absl::StrCat("the move is ", MoveStateName(now)));
  }
  page_channels_ = recover.page_channels;
  urgent_channels_ = recover.urgent_channels;
  if (granted && recover.epoch != epoch_) {
    return absl::InvalidArgumentError(
        absl::StrCat("RECOVER: epoch ", recover.epoch, ", but GRANT was of epoch ", epoch_));
  }
  if (recover.move_id != id_ || page_channels_ < 1 || page_channels_ > kMaxChannels || urgent_channels_ < 1 ||
      urgent_channels_ > kMaxChannels) {
    return absl::InvalidArgumentError(
        absl::StrCat("RECOVER: another move, or ", page_channels_, " page and ", urgent_channels_, " urgent channels"));
  }
  FERRITE_RETURN_IF_ERROR(peer_->Send(message::Standing{.granted = granted}));
  if (!granted) {
    FERRITE_ASSIGN_OR_RETURN(const Message word, peer_->Next(options_.patience));
    if (std::holds_alternative<message::Revoke>(word)) {
      revoked_ = true;
      (void)peer_->Send(message::Revoked{});
      return absl::CancelledError("the source took the guest back");
    }
    const auto* const grant = std::get_if<message::Grant>(&word);
    if (grant == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("the source sent ", MessageName(word), " where GRANT or REVOKE was due"));
    }
    FERRITE_RETURN_IF_ERROR(OnGrant(*grant));
  }
  FERRITE_RETURN_IF_ERROR(SendMissing());
  FERRITE_RETURN_IF_ERROR(AcceptChannels(lobby));
  if (state_.Change(MoveState::kPostcopyPaused, MoveState::kPostcopyRecover)) {
    FERRITE_CHECK(state_.Change(MoveState::kPostcopyRecover, MoveState::kPostcopyActive));
  }
  if (userfault_ != nullptr && !settled_) {
    StopFaults();
    FERRITE_RETURN_IF_ERROR(ServeFaults(urgent_, /*ask_again=*/true));
    FERRITE_RETURN_IF_ERROR(StartReceivers(/*live=*/true));
  }
  return absl::OkStatus();
}

absl::Status Destination::SendMissing() {
  // Nothing is received at the moment: the states stand still, but for pages that faults ask for.
  std::vector<PageRange> missing;
  const auto send = [&](bool last) {
    return peer_->Send(message::Missing{.ranges = std::exchange(missing, {}), .last = last});
  };
  for (size_t index = 0; index < landscape_->regions(); ++index) {
    const PageStates& states = landscape_->states(index);
    const uint64_t per_unit = landscape_->placer(index).pages_per_unit();
    for (uint64_t unit = 0; unit < states.units(); ++unit) {
      const PageState state = states.Get(unit);
      if (state == PageState::kPresent || state == PageState::kPoisoned) {
        continue;
      }
      const uint64_t page = unit * per_unit;
      if (!missing.empty() && missing.back().region == index && missing.back().first + missing.back().count == page) {
        missing.back().count += per_unit;
        continue;
      }
      if (missing.size() == kMaxRanges) {
        FERRITE_RETURN_IF_ERROR(send(/*last=*/false));
      }
      missing.push_back({.region = static_cast<uint16_t>(index), .first = page, .count = per_unit});
    }
  }
  return send(/*last=*/true);
}

}  // namespace ferrite::migration
