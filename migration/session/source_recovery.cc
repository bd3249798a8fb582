// The source behind GRANT, when a connection was lost (docs/move.md).
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/timed_mutex.h"
#include "migration/api/move_options.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/version.h"
#include "migration/session/source.h"

namespace ferrite::migration {
namespace {

// Between two tries to find a destination again.
constexpr absl::Duration kRecoveryPause = absl::Milliseconds(250);
// And at most, where they led to nothing although it was found.
constexpr absl::Duration kLongestRecoveryPause = absl::Seconds(4);
// What a destination that was found has to answer in, however little is left of MoveOptions::recover_for.
constexpr absl::Duration kLeastToAnswer = absl::Seconds(1);

}  // namespace

absl::Status Source::Recover(const Address& destination) {
  if (state_.get() != MoveState::kPostcopyPaused) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is nothing to recover: the move is ", MoveStateName(state_.get())));
  }
  if ((features_ & kFeatureRecovery) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the monitor at ", where_, " is of a version that cannot go on after a lost connection"));
  }
  {
    const TimedMutexLock lock(&mutex_);
    leaving_ = false;
  }
  return Finished(CatchOutOfMemory([&] { return KeepTrying(destination, absl::OkStatus()); }));
}

absl::Status Source::KeepTrying(const Address& destination, const absl::Status& lost) {
  absl::Status status = lost.ok() ? absl::CancelledError("the search for the destination was ended") : lost;
  Search search{.until = MonotonicTime::Now() + options_.recover_for, .least_missing = std::nullopt};
  absl::Duration pause;
  while (state_.get() == MoveState::kPostcopyPaused && (features_ & kFeatureRecovery) != 0) {
    Publish([](MoveProgress&) {});
    {
      const TimedMutexLock lock(&mutex_);
      if (mutex_.AwaitFor(absl::Condition(&leaving_), pause)) {
        break;
      }
    }
    const Search before = search;
    const absl::Status now = CatchOutOfMemory([&] { return TryToRecover(destination, search); });
    if (now.ok()) {
      return now;
    }
    absl::Status given_up = GiveUp(now);
    // Why it was lost says more than why it cannot be found.
    if (lost.ok() || state_.get() != MoveState::kPostcopyPaused) {
      status = std::move(given_up);
    }
    // Found, and lost again for nothing.
    const bool in_vain = search.told && search.until == before.until;
    pause = in_vain ? std::min(std::max(2 * pause, kRecoveryPause), kLongestRecoveryPause) : kRecoveryPause;
    if (MonotonicTime::Now() >= search.until) {
      break;
    }
  }
  return status;
}

absl::Status Source::StartAnew() {
  if (!state_.Change(MoveState::kPostcopyPaused, MoveState::kPostcopyRecover)) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is nothing to recover: the move is ", MoveStateName(state_.get())));
  }
  std::unique_ptr<ControlPeer> control;
  std::unique_ptr<PageSource> pages;
  {
    const TimedMutexLock lock(&mutex_);
    control = std::move(control_);
    pages = std::move(pages_);
    if (pages != nullptr) {
      MoveReport figures;
      pages->FillReport(figures);
      AddPages(figures, earlier_);
      // The last that is known, until there is a connection again.
      progress_.remaining_bytes = pages->PendingBytes();
      progress_.faults = pages->faults();
    }
  }
  peer_ = nullptr;
  reached_ = false;
  // Joins their threads, which may signal until then.
  control.reset();
  pages.reset();
  cancel_.Drain();
  const TimedMutexLock lock(&mutex_);
  return leaving_ ? absl::CancelledError("the search for the destination was ended") : absl::OkStatus();
}

absl::StatusOr<bool> Source::AskWhetherGranted(const Address& destination, absl::Duration limit) {
  FERRITE_RETURN_IF_ERROR(OpenControl(destination, options_.silence));
  FERRITE_RETURN_IF_ERROR(peer_->Send(message::Recover{.move_id = id_,
                                                       .epoch = epoch_,
                                                       .page_channels = static_cast<uint16_t>(options_.channels),
                                                       .urgent_channels = kUrgentChannels}));
  FERRITE_ASSIGN_OR_RETURN(const message::Standing standing, peer_->Expect<message::Standing>(limit));
  return standing.granted;
}

absl::StatusOr<std::vector<PageRange>> Source::AskWhatIsMissing(absl::Duration limit) {
  const MonotonicTime deadline = MonotonicTime::Now() + limit;
  std::vector<PageRange> runs;
  const auto regions = port_.memory().regions();
  uint64_t pages_left = 0;
  for (const auto& region : regions) {
    pages_left += region->pages();
  }
  bool last = false;
  while (!last) {
    const absl::Duration left = deadline - MonotonicTime::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          absl::StrCat("the destination lives, but did not say what is missing within ", absl::FormatDuration(limit)));
    }
    FERRITE_ASSIGN_OR_RETURN(const message::Missing missing, peer_->Expect<message::Missing>(left));
    last = missing.last;
    if (missing.ranges.empty() && !last) {
      return absl::InvalidArgumentError("MISSING: nothing in it, and not the last one");
    }
    for (const PageRange& run : missing.ranges) {
      if (run.region >= regions.size() || run.first >= regions[run.region]->pages() || run.count == 0 ||
          run.count > regions[run.region]->pages() - run.first || run.first % pages_per_unit_[run.region] != 0 ||
          run.count % pages_per_unit_[run.region] != 0 || run.count > pages_left) {
        return absl::InvalidArgumentError(absl::StrCat("MISSING: pages ", run.first, "+", run.count, " of region ",
                                                       run.region, " are no whole pages of it, or told twice"));
      }
      pages_left -= run.count;
      runs.push_back(run);
    }
  }
  return runs;
}

absl::Status Source::TryToRecover(const Address& destination, Search& search) {
  const auto limit = [&] {
    return std::min(options_.patience, std::max(search.until - MonotonicTime::Now(), kLeastToAnswer));
  };
  search.told = false;
  FERRITE_RETURN_IF_ERROR(StartAnew());
  FERRITE_ASSIGN_OR_RETURN(const bool granted, AskWhetherGranted(destination, limit()));
  {
    // It answers for this move, so it is there.
    const TimedMutexLock lock(&mutex_);
    destination_ = destination;
    where_ = destination.ToString();
  }
  const bool had_run = ran_there_;
  if (granted) {
    ran_there_ = true;
  } else if (had_run) {
    return absl::InvalidArgumentError("STANDING: the destination says that it never got GRANT, and had said RUNNING");
  } else {
    const MonotonicTime start = MonotonicTime::Now();
    ++epoch_;
    FERRITE_RETURN_IF_ERROR(port_.RecordGrant(id_, epoch_, where_));
    FERRITE_RETURN_IF_ERROR(SendGrant(start, limit()));
  }
  if (!had_run) {
    // Once in a move.
    search.until = MonotonicTime::Now() + options_.recover_for;
  }
  FERRITE_ASSIGN_OR_RETURN(const std::vector<PageRange> missing, AskWhatIsMissing(limit()));
  search.told = true;
  uint64_t missing_pages = 0;
  for (const PageRange& run : missing) {
    missing_pages += run.count;
  }
  // Of the first time nobody knows how many were missing before.
  const bool first = !search.least_missing.has_value();
  const bool fewer = !first && missing_pages < *search.least_missing;
  search.least_missing = std::min(missing_pages, search.least_missing.value_or(missing_pages));
  if (fewer) {
    search.until = MonotonicTime::Now() + options_.recover_for;
  }
  FERRITE_RETURN_IF_ERROR(OpenPages(destination));
  for (const PageRange& run : missing) {
    pages_->MakePending(run);
  }
  FERRITE_CHECK(state_.Change(MoveState::kPostcopyRecover, MoveState::kPostcopyActive));
  {
    const TimedMutexLock lock(&mutex_);
    ++report_.recoveries;
  }
  serving_ = true;
  FERRITE_RETURN_IF_ERROR(pages_->StartPostcopy());
  PublishStart();
  const MonotonicTime served_from = MonotonicTime::Now();
  absl::Status status = Annotate(End(), "post-copy");
  if (first || fewer) {
    // It was not looked for meanwhile. Of one to which pages were sent before, and which misses as many, that is not
    // said.
    search.until += MonotonicTime::Now() - served_from;
  }
  return status;
}

absl::Status Source::TakeBack(bool force) {
  const absl::Status status = CatchOutOfMemory([&] { return TryToTakeBack(force); });
  return state_.get() == MoveState::kPostcopyRecover ? GiveUp(status) : status;
}

absl::Status Source::TryToTakeBack(bool force) {
  {
    const TimedMutexLock lock(&mutex_);
    leaving_ = false;
  }
  if (const absl::Status started = StartAnew(); !started.ok()) {
    return started;
  }
  const absl::StatusOr<bool> granted = AskWhetherGranted(destination_, options_.patience);
  if (granted.ok() && *granted) {
    return absl::FailedPreconditionError("the destination says that it has the guest");
  }
  bool ended = false;
  {
    const TimedMutexLock lock(&mutex_);
    ended = leaving_;
  }
  if (ended) {
    return absl::CancelledError("the guest was not taken back: this was ended");
  }
  if (granted.ok()) {
    // Whether or not the answer comes: nobody but this side could grant it any more, and it will not.
    (void)peer_->Send(message::Revoke{});
    (void)peer_->Expect<message::Revoked>(options_.patience);
  } else if (reached_ && !force) {
    // It was there to be connected to: it may run the guest, or have GRANT before it.
    return absl::UnavailableError(
        absl::StrCat("somebody listens there but does not say whether it has the guest: ", granted.status().message(),
                     "; --force takes the guest back all the same"));
  }
  may_run_there_ = false;
  FERRITE_CHECK(state_.Change(MoveState::kPostcopyRecover, MoveState::kFailing));
  // The guest is this side's from here on.
  absl::Status status;
  UntilThereIsMemory([&] {
    if (peer_ != nullptr) {
      peer_->Shutdown(absl::CancelledError("the guest was taken back"));
    }
    status = RunHere();
  });
  FERRITE_CHECK(state_.Change(MoveState::kFailing, MoveState::kFailed));
  Publish([](MoveProgress&) {});
  return status;
}

void Source::Leave() {
  const TimedMutexLock lock(&mutex_);
  leaving_ = true;
  const MoveState now = state_.get();
  if (now == MoveState::kPostcopyPaused || now == MoveState::kPostcopyRecover) {
    cancel_.Signal();
    if (control_ != nullptr) {
      control_->Shutdown(absl::CancelledError("the search for the destination was ended"));
    }
  }
}

void Source::Abandon() {
  const TimedMutexLock lock(&mutex_);
  leaving_ = true;
  abandoned_ = true;
  cancel_.Signal();
  if (pages_ != nullptr) {
    pages_->Shutdown();
  }
  if (control_ != nullptr) {
    control_->Shutdown(absl::CancelledError("the guest's memory was given up here"));
  }
}

}  // namespace ferrite::migration
