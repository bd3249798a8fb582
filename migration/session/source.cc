#include "migration/session/source.h"

#include <sys/random.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/thread_class.h"
#include "base/timed_mutex.h"
#include "migration/channel/socket.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/version.h"
#include "migration/sending/convergence.h"

namespace ferrite::migration {
namespace {

constexpr uint32_t kPackageVersion = 1;
constexpr uint64_t kUnansweredDiscards = 32;
// Discards that are told while the guest still runs need not be told while it stands still.
constexpr int kEarlyDiscards = 3;
// How long to wait for the other side's word of why a channel broke.
constexpr absl::Duration kWords = absl::Seconds(1);
// A rate is measured over at least this time.
constexpr absl::Duration kRateOver = absl::Milliseconds(100);
// How long it may take to find that it has everything, and to lock its memory, in times of MoveOptions::silence.
constexpr int kShutFactor = 12;
// And while it stands still: a limit for peers that hang, not the aim. On top come multiples of what was to be
// expected.
constexpr absl::Duration kStandstillLimit = absl::Seconds(3);
constexpr int kStandstillFactor = 4;
// A destination that says that it needs longer to load the state is refused: the guest would stand still for as long.
constexpr absl::Duration kMaxLoad = absl::Seconds(10);
// Acts once, on a thread of its own, when it was not stopped within `limit`.
class Watchdog {
 public:
  Watchdog() = default;
  ~Watchdog() { (void)Stop(); }

  absl::Status Start(absl::Duration limit, std::function<void()> act) {
    FERRITE_ASSIGN_OR_RETURN(thread_, Thread::Start("mig-src-watch", [this, limit, act = std::move(act)] {
                               {
                                 const TimedMutexLock lock(&mutex_);
                                 barked_ = !mutex_.AwaitFor(absl::Condition(&over_), limit);
                                 if (!barked_) {
                                   return;
                                 }
                               }
                               act();
                             }));
    return absl::OkStatus();
  }

  // Whether it acted.
  bool Stop() {
    {
      const TimedMutexLock lock(&mutex_);
      over_ = true;
    }
    thread_.Join();
    const TimedMutexLock lock(&mutex_);
    return barked_;
  }

 private:
  TimedMutex mutex_;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  bool barked_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Source>> Source::Create(SourcePort& port, MoveOptions options,
                                                       std::function<void(const MoveProgress&)> on_progress) {
  if (options.channels < 1 || options.channels > 16) {
    return absl::InvalidArgumentError(absl::StrCat("a move has 1 to 16 page channels, not ", options.channels));
  }
  FERRITE_ASSIGN_OR_RETURN(EventFd cancel, EventFd::Create());
  MoveId id;
  if (getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
    return ErrnoStatus("make the move's id: getrandom");
  }
  return std::unique_ptr<Source>(new Source(port, options, std::move(on_progress), std::move(cancel), id));
}

Source::Source(SourcePort& port, MoveOptions options, std::function<void(const MoveProgress&)> on_progress,
               EventFd cancel, const MoveId& id)
    : port_(port), options_(options), on_progress_(std::move(on_progress)), cancel_(std::move(cancel)), id_(id) {}

Source::~Source() {
  // Its thread uses pages_.
  std::unique_ptr<ControlPeer> control;
  const TimedMutexLock lock(&mutex_);
  control = std::move(control_);
}

absl::Status Source::Run(const Address& destination) {
  {
    const TimedMutexLock lock(&mutex_);
    destination_ = destination;
    where_ = destination.ToString();
  }
  started_ = MonotonicTime::Now();
  if (!state_.Change(MoveState::kNone, MoveState::kSetup)) {
    return absl::CancelledError("the move was cancelled");
  }
  Publish([](MoveProgress&) {});
  absl::Status status = CatchOutOfMemory([&] { return RunPhases(destination); });
  if (!status.ok()) {
    const absl::Status given_up = GiveUp(status);
    status = CatchOutOfMemory([&] { return KeepTrying(destination, given_up); });
  }
  return Finished(status);
}

absl::Status Source::Finished(const absl::Status& status) {
  {
    const TimedMutexLock lock(&mutex_);
    report_.total = MonotonicTime::Now() - started_;
  }
  Publish([](MoveProgress&) {});
  return status;
}

absl::Status Source::RunPhases(const Address& destination) {
  FERRITE_RETURN_IF_ERROR(Annotate(Setup(destination), "setup"));
  FERRITE_RETURN_IF_ERROR(Annotate(Advise(), "advise"));
  if (!state_.Change(MoveState::kSetup, MoveState::kActive)) {
    return absl::CancelledError("cancelled");
  }
  peer_->SetSilence(options_.silence);
  Publish([](MoveProgress&) {});
  FERRITE_RETURN_IF_ERROR(Annotate(Rounds(), "pre-copy"));
  if (!state_.Change(MoveState::kActive, MoveState::kDevice)) {
    return absl::CancelledError("cancelled");
  }
  Publish([](MoveProgress&) {});
  const Urgency urgency;
  FERRITE_RETURN_IF_ERROR(Annotate(Switchover(), "switchover"));
  return Annotate(End(), postcopy_ ? "post-copy" : "end");
}

absl::StatusOr<std::unique_ptr<Stream>> Source::OpenChannel(const Address& destination, ChannelRole role,
                                                            uint16_t index) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream,
                           dialer_.Connect(destination, options_.connect_limit, cancel_));
  reached_ = true;
  const Preamble preamble{.lowest_version = kOurVersions.lowest,
                          .version = kOurVersions.newest,
                          .role = role,
                          .index = index,
                          .move_id = id_};
  stream->SetPatience(options_.silence);
  FERRITE_RETURN_IF_ERROR(stream->WriteAll(EncodePreamble(preamble)));
  return stream;
}

absl::Status Source::OpenControl(const Address& destination, absl::Duration silence) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, OpenChannel(destination, ChannelRole::kControl, 0));
  {
    const TimedMutexLock lock(&mutex_);
    FERRITE_ASSIGN_OR_RETURN(control_, ControlPeer::Create(std::move(stream),
                                                           ControlPeer::Options{.thread_name = "mig-src-ctl",
                                                                                .peer_name = "the destination",
                                                                                .silence = silence},
                                                           [this](const absl::Status&) {
                                                             // Wake whatever of ours blocks.
                                                             cancel_.Signal();
                                                             const TimedMutexLock pages_lock(&mutex_);
                                                             if (pages_ != nullptr) {
                                                               pages_->Shutdown();
                                                             }
                                                           }));
    peer_ = control_.get();
  }
  return cancelled_ ? absl::CancelledError("cancelled") : absl::OkStatus();
}

absl::Status Source::Setup(const Address& destination) {
  FERRITE_RETURN_IF_ERROR(OpenControl(destination, std::max(options_.silence, options_.patience)));
  FERRITE_RETURN_IF_ERROR(peer_->Send(message::Hello{.move_id = id_,
                                                     .versions = kOurVersions,
                                                     .features = kOurFeatures,
                                                     .page_channels = static_cast<uint16_t>(options_.channels),
                                                     .urgent_channels = kUrgentChannels}));
  FERRITE_ASSIGN_OR_RETURN(const message::Welcome welcome, Await<message::Welcome>());
  features_ = welcome.features & kOurFeatures;
  FERRITE_RETURN_IF_ERROR(ChooseVersion(kOurVersions, {.lowest = welcome.version, .newest = welcome.version}).status());

  FERRITE_ASSIGN_OR_RETURN(MachineSpec spec, port_.Describe());
  FERRITE_RETURN_IF_ERROR(peer_->Send(message::Machine{.spec = std::move(spec)}));
  FERRITE_ASSIGN_OR_RETURN(const message::Accept accept, Await<message::Accept>());
  const std::vector<uint64_t>& theirs = accept.host_page_bytes;
  const auto regions = port_.memory().regions();
  if (theirs.size() != regions.size()) {
    return absl::InvalidArgumentError("the destination accepted another number of memory regions");
  }
  for (size_t i = 0; i < theirs.size(); ++i) {
    const uint64_t bytes = std::max(theirs[i], regions[i]->host_page_bytes());
    if (theirs[i] < kPageBytes || (theirs[i] & (theirs[i] - 1)) != 0 || regions[i]->bytes() % bytes != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "region ", regions[i]->name(), " has no whole number of the destination's pages of ", theirs[i], " bytes"));
    }
    pages_per_unit_.push_back(bytes / kPageBytes);
  }
  postcopy_possible_ = accept.postcopy && (features_ & kFeaturePostcopy) != 0;
  if (!postcopy_possible_ && options_.mode == MoveMode::kPostcopy) {
    return absl::FailedPreconditionError(
        absl::StrCat("the destination cannot do post-copy: ", CleanText(accept.postcopy_reason)));
  }
  return OpenPages(destination);
}

absl::Status Source::OpenPages(const Address& destination) {
  std::vector<std::unique_ptr<Stream>> page;
  for (int i = 0; i < options_.channels; ++i) {
    FERRITE_ASSIGN_OR_RETURN(page.emplace_back(),
                             OpenChannel(destination, ChannelRole::kPage, static_cast<uint16_t>(i)));
  }
  std::vector<std::unique_ptr<Stream>> urgent;
  for (uint16_t i = 0; i < kUrgentChannels; ++i) {
    FERRITE_ASSIGN_OR_RETURN(urgent.emplace_back(), OpenChannel(destination, ChannelRole::kUrgent, i));
  }
  const TimedMutexLock lock(&mutex_);
  pages_ = std::make_unique<PageSource>(port_, pages_per_unit_, std::move(page), std::move(urgent), options_,
                                        [this](const absl::Status& failure) { OnPageFailure(failure); });
  return absl::OkStatus();
}

absl::Duration Source::StandstillLimit() const {
  return kStandstillLimit + kStandstillFactor * (options_.downtime_limit + load_estimate_);
}

absl::Status Source::Advise() {
  port_.InhibitBalloon();
  inhibited_ = true;
  FERRITE_RETURN_IF_ERROR(peer_->Send(message::Advise{}));
  FERRITE_ASSIGN_OR_RETURN(const message::Ready ready, Await<message::Ready>());
  load_estimate_ = ready.load;
  if (load_estimate_ > kMaxLoad) {
    return absl::FailedPreconditionError(
        absl::StrCat("the destination says that it needs ", absl::FormatDuration(load_estimate_),
                     " to load the machine's state, in which the guest would stand still; at most ",
                     absl::FormatDuration(kMaxLoad), " are waited for"));
  }
  return absl::OkStatus();
}

bool Source::StopRound() const {
  return cancelled_ || postcopy_wanted_ || MonotonicTime::Now() - started_ > options_.timeout || !peer_->failure().ok();
}

absl::Status Source::SendRound(const std::function<bool()>& stop) {
  absl::Status status = pages_->SendRound(round_, stop);
  if (!status.ok() && !absl::IsResourceExhausted(status)) {
    // The channels were shut down when the control connection was lost.
    absl::Status lost = peer_->failure();
    status = lost.ok() ? status : lost;
  }
  return status;
}

absl::Status Source::EndRound(bool last) { return peer_->Send(message::Round{.number = round_, .last = last}); }

absl::Status Source::Rounds() {
  FERRITE_RETURN_IF_ERROR(port_.StartDirtyTracking());
  tracking_ = true;
  FERRITE_RETURN_IF_ERROR(pages_->Start());
  if (options_.mode == MoveMode::kPostcopy) {
    postcopy_ = true;
    ++round_;
    PublishStart();
    FERRITE_RETURN_IF_ERROR(SendRound([] { return true; }));
    return EndRound(/*last=*/false);
  }
  ConvergenceLimits limits{.mode = options_.mode,
                           .downtime_limit = options_.downtime_limit,
                           .fixed_downtime = load_estimate_,
                           .postcopy_possible = postcopy_possible_};
  RoundFigures before;
  bool has_before = false;
  int throttle = 0;
  while (true) {
    ++round_;
    const MonotonicTime round_start = MonotonicTime::Now();
    const uint64_t sent_before = pages_->sent_bytes();
    PublishStart();
    FERRITE_RETURN_IF_ERROR(SendRound([this] { return StopRound(); }));
    FERRITE_RETURN_IF_ERROR(EndRound(/*last=*/false));
    FERRITE_RETURN_IF_ERROR(pages_->CollectDirty().status());
    const RoundFigures now{.number = round_,
                           .bytes_sent = pages_->sent_bytes() - sent_before,
                           .took = MonotonicTime::Now() - round_start,
                           .remaining_bytes = pages_->PendingBytes(),
                           .throttle_percent = throttle};
    const Decision decision = DecideNext(now, has_before ? &before : nullptr, limits);
    Publish([&](MoveProgress& progress) {
      mutex_.AssertHeld();
      round_start_ = MonotonicTime::InfiniteFuture();
      progress.rate = RateOf(now);
      progress.dirty_rate = static_cast<double>(now.remaining_bytes) / std::max(absl::ToDoubleSeconds(now.took), 1e-6);
      progress.expected_downtime = decision.expected_downtime;
      progress.throttle_percent = decision.throttle_percent;
    });
    if (cancelled_) {
      return absl::CancelledError("cancelled");
    }
    FERRITE_RETURN_IF_ERROR(peer_->failure());
    if (postcopy_wanted_) {
      postcopy_ = true;
      return absl::OkStatus();
    }
    if (decision.step == NextStep::kSwitchover) {
      return AwaitArrival();
    }
    if (MonotonicTime::Now() - started_ > options_.timeout) {
      if (options_.on_timeout == OnTimeout::kPostcopy && postcopy_possible_) {
        postcopy_ = true;
        return absl::OkStatus();
      }
      return absl::DeadlineExceededError(absl::StrCat(
          "the guest dirties memory faster than it can be sent: not done in ", absl::FormatDuration(options_.timeout)));
    }
    if (decision.step == NextStep::kPostcopy) {
      postcopy_ = true;
      return absl::OkStatus();
    }
    if (decision.throttle_percent != throttle) {
      throttle = decision.throttle_percent;
      FERRITE_RETURN_IF_ERROR(port_.SetThrottle(throttle));
    }
    before = now;
    has_before = true;
  }
}

absl::Status Source::Switchover() {
  // What is left is little, and the guest waits for it.
  pages_->LiftLimit();
  const absl::Status too_long =
      absl::DeadlineExceededError(absl::StrCat("the destination lives, but the guest stood still for ",
                                               absl::FormatDuration(StandstillLimit()), ", and that was not over yet"));
  {
    Watchdog watchdog;
    FERRITE_RETURN_IF_ERROR(watchdog.Start(StandstillLimit(), [&] { EndStandstill(too_long); }));
    const absl::Status status = postcopy_ ? SwitchoverPostcopy() : SwitchoverPrecopy();
    if (watchdog.Stop() && !peer_->said_why()) {
      return too_long;
    }
    FERRITE_RETURN_IF_ERROR(status);
  }
  return Grant();
}

void Source::EndStandstill(const absl::Status& reason) {
  const TimedMutexLock lock(&mutex_);
  pages_->Shutdown();
  control_->Interrupt(reason);
}

absl::Status Source::SwitchoverPrecopy() {
  switchover_ = MonotonicTime::Now();
  paused_ = true;
  FERRITE_RETURN_IF_ERROR(port_.Pause());
  const MonotonicTime stopped = MonotonicTime::Now();
  FERRITE_RETURN_IF_ERROR(pages_->CollectDirty().status());
  ++round_;
  FERRITE_RETURN_IF_ERROR(SendRound([this] { return cancelled_.load(); }));
  FERRITE_RETURN_IF_ERROR(EndRound(/*last=*/true));
  {
    const TimedMutexLock lock(&mutex_);
    report_.stop = stopped - switchover_;
    report_.last_pages = MonotonicTime::Now() - stopped;
  }
  return SendPackage();
}

absl::Status Source::SwitchoverPostcopy() {
  for (int i = 0; i < kEarlyDiscards; ++i) {
    FERRITE_RETURN_IF_ERROR(pages_->CollectDirty().status());
    FERRITE_RETURN_IF_ERROR(SendDiscards(/*wait=*/true));
  }
  switchover_ = MonotonicTime::Now();
  paused_ = true;
  FERRITE_RETURN_IF_ERROR(port_.Pause());
  const MonotonicTime stopped = MonotonicTime::Now();
  FERRITE_RETURN_IF_ERROR(pages_->CollectDirty().status());
  FERRITE_RETURN_IF_ERROR(SendDiscards(/*wait=*/false));
  // An empty round: the channels stop at its end until the destination is ready to place pages live.
  ++round_;
  FERRITE_RETURN_IF_ERROR(SendRound([] { return true; }));
  FERRITE_RETURN_IF_ERROR(EndRound(/*last=*/true));
  {
    const TimedMutexLock lock(&mutex_);
    report_.postcopy = true;
    report_.stop = stopped - switchover_;
    report_.last_pages = MonotonicTime::Now() - stopped;
  }
  return SendPackage();
}

absl::Status Source::SendDiscards(bool wait) {
  const std::vector<PageRange> stale = pages_->TakeStale();
  const std::span<const PageRange> all(stale);
  uint64_t messages = 0;
  for (size_t at = 0; at < all.size() || (wait && messages == 0); at += kMaxRanges) {
    const auto some = all.subspan(at, std::min(kMaxRanges, all.size() - at));
    const bool is_last = at + some.size() == all.size();
    // The other side queues what it did not get to: it is not sent more than it takes.
    const bool asks = ++messages % kUnansweredDiscards == 0 || (is_last && wait);
    FERRITE_RETURN_IF_ERROR(peer_->Send(message::Discard{.ranges = {some.begin(), some.end()}, .last = asks}));
    if (asks) {
      FERRITE_RETURN_IF_ERROR(Await<message::Discarded>().status());
    }
  }
  return absl::OkStatus();
}

absl::Status Source::AwaitArrival() {
  // Megabytes may wait in the connections, and the package would have to wait for them while the guest stands still.
  // The answer to a DISCARD, here of nothing, comes when the rounds before it are in place.
  FERRITE_RETURN_IF_ERROR(peer_->Send(message::Discard{.ranges = {}, .last = true}));
  return Await<message::Discarded>().status();
}

absl::Status Source::SendPackage() {
  const MonotonicTime start = MonotonicTime::Now();
  FERRITE_ASSIGN_OR_RETURN(std::vector<uint8_t> blob, port_.SaveState());
  disks_released_ = true;
  FERRITE_RETURN_IF_ERROR(port_.ReleaseDisks());
  const MonotonicTime saved = MonotonicTime::Now();
  FERRITE_RETURN_IF_ERROR(
      peer_->Send(message::Package{.version = kPackageVersion, .blob = std::move(blob), .postcopy = postcopy_}));
  if (postcopy_) {
    // Loading may touch guest memory: pages flow from here on.
    serving_ = true;
    FERRITE_RETURN_IF_ERROR(pages_->StartPostcopy());
  }
  FERRITE_ASSIGN_OR_RETURN(const message::Loaded loaded, Await<message::Loaded>());
  const absl::Duration took = MonotonicTime::Now() - saved;
  const TimedMutexLock lock(&mutex_);
  report_.state = saved - start;
  report_.load = std::min(loaded.load, took);
  report_.send = took - report_.load;
  return absl::OkStatus();
}

void Source::OnPageFailure(const absl::Status& failure) {
  const TimedMutexLock lock(&mutex_);
  if (control_ != nullptr && state_.get() == MoveState::kDevice) {
    // The guest stands still, and nobody but the thread of Run() can end that.
    control_->Interrupt(failure);
  }
}

absl::Status Source::Grant() {
  // From here on a cancel comes too late, and nothing but the destination's refusal makes this side run the guest (R2).
  if (!state_.Change(MoveState::kDevice, MoveState::kPostcopyActive)) {
    return absl::CancelledError("cancelled");
  }
  const MonotonicTime start = MonotonicTime::Now();
  FERRITE_RETURN_IF_ERROR(port_.RecordGrant(id_, epoch_, where_));
  if (peer_->refused()) {
    // That takes what the disk takes, and the destination has given up meanwhile.
    return peer_->failure();
  }
  may_run_there_ = true;
  return SendGrant(start, options_.patience);
}

absl::Status Source::SendGrant(MonotonicTime start, absl::Duration patience) {
  absl::Status running = peer_->Send(message::Grant{.move_id = id_, .epoch = epoch_});
  if (running.ok()) {
    running = peer_->Expect<message::Running>(patience).status();
  }
  if (!running.ok()) {
    if (absl::IsUnavailable(running)) {
      // One that refused and closed may not have been heard yet.
      peer_->AwaitFailure(kWords);
    }
    // Who refuses the grant has not run the guest, and never will.
    may_run_there_ = !peer_->refused();
    return running;
  }
  ran_there_ = true;
  {
    const MonotonicTime runs = MonotonicTime::Now();
    const TimedMutexLock lock(&mutex_);
    report_.run = runs - start;
    report_.downtime = runs - switchover_;
  }
  PublishStart();
  return absl::OkStatus();
}

absl::Status Source::End() {
  if (serving_) {
    FERRITE_RETURN_IF_ERROR(pages_->FinishPostcopy());
  }
  FERRITE_RETURN_IF_ERROR(peer_->Send(message::End{}));
  FERRITE_ASSIGN_OR_RETURN(message::Shut shut, peer_->Expect<message::Shut>(kShutFactor * options_.silence));
  TakeFigures(std::move(shut.figures));
  if (!shut.ok) {
    return absl::AbortedError(absl::StrCat("the destination says: ", CleanText(shut.message)));
  }
  if ((features_ & kFeatureRecovery) != 0) {
    // Nothing depends on it: a destination that does not hear it waits a little longer.
    (void)peer_->Send(message::Heard{});
  }
  FERRITE_CHECK(state_.Change(MoveState::kPostcopyActive, MoveState::kCompleted));
  // Whatever fails from here on, the guest is over there.
  UntilThereIsMemory([this] {
    StopTracking();
    port_.Moved(where_);
    // The destination waits for this: it has been heard.
    pages_->Shutdown();
    peer_->Shutdown(absl::CancelledError("the move is over"));
  });
  return absl::OkStatus();
}

void Source::TakeFigures(message::DestinationFigures figures) {
  const TimedMutexLock lock(&mutex_);
  report_.rounds = round_;
  report_.faults = figures.faults;
  report_.minor_faults = figures.minor_faults;
  report_.duplicate_pages = figures.duplicate_pages;
  report_.waiting = std::move(figures.waiting);
}

absl::Status Source::GiveUp(const absl::Status& reason) {
  if (may_run_there_) {
    return StandStill(reason);
  }
  // Exactly one of Cancel() and this change wins.
  for (const MoveState from : {MoveState::kSetup, MoveState::kActive, MoveState::kDevice, MoveState::kPostcopyActive,
                               MoveState::kPostcopyRecover}) {
    if (state_.Change(from, MoveState::kFailing)) {
      break;
    }
  }
  const bool cancelled = state_.get() == MoveState::kCancelling;
  const Urgency urgency;
  if (pages_ != nullptr) {
    pages_->Shutdown();
    (void)pages_->FinishPostcopy();
  }
  // The guest first: words can wait.
  absl::Status undone;
  UntilThereIsMemory([&] { undone = RunHere(); });
  const absl::Status why = CatchOutOfMemory([&] { return TellWhy(reason, cancelled); });
  if (peer_ != nullptr) {
    peer_->Shutdown(why);
  }
  FERRITE_CHECK(cancelled ? state_.Change(MoveState::kCancelling, MoveState::kCancelled)
                          : state_.Change(MoveState::kFailing, MoveState::kFailed));
  return CatchOutOfMemory([&]() -> absl::Status {
    if (!undone.ok()) {
      return absl::Status(
          why.code(),
          absl::StrCat(why.message(), "; the guest did not go on here, since this failed: ", undone.message()));
    }
    return cancelled ? absl::CancelledError("the move was cancelled") : why;
  });
}

absl::Status Source::TellWhy(const absl::Status& reason, bool cancelled) {
  const absl::Status why = cancelled ? reason : WordsFor(reason);
  if (peer_ != nullptr && cancelled) {
    (void)peer_->SendBriefly(message::Cancel{.message = "cancelled"});
  } else if (peer_ != nullptr && peer_->failure().ok()) {
    peer_->SendLastWords(why);
  }
  return why;
}

absl::Status Source::StandStill(const absl::Status& reason) {
  const absl::Status why = CatchOutOfMemory([&] { return WordsFor(reason); });
  FERRITE_CHECK(state_.Change(MoveState::kPostcopyActive, MoveState::kPostcopyPaused) ||
                state_.Change(MoveState::kPostcopyRecover, MoveState::kPostcopyPaused));
  if (pages_ != nullptr) {
    pages_->Shutdown();
  }
  if (peer_ != nullptr) {
    peer_->Shutdown(why);
  }
  return CatchOutOfMemory([&] {
    const TimedMutexLock lock(&mutex_);
    return absl::Status(why.code(),
                        absl::StrCat("the guest was handed over to ", where_, ", then: ", why.message(),
                                     abandoned_ ? "" : "; this side stays paused and keeps the guest's memory"));
  });
}

absl::Status Source::WordsFor(const absl::Status& reason) const {
  // What this side lacks comes first: the other one may have noticed that its channels were closed for it.
  if (peer_ == nullptr || absl::IsResourceExhausted(reason)) {
    return reason;
  }
  if (absl::IsUnavailable(reason)) {
    peer_->AwaitFailure(kWords);
  }
  return peer_->said_why() ? peer_->failure() : reason;
}

absl::Status Source::RunHere() {
  absl::Status status;
  if (disks_released_) {
    status = Annotate(port_.AcquireDisks(), "take the disks back");
  }
  (void)port_.SetThrottle(0);
  StopTracking();
  if (inhibited_) {
    port_.AllowBalloon();
    inhibited_ = false;
  }
  if (paused_ && status.ok()) {
    status = Annotate(port_.Resume(), "resume the guest");
  } else if (paused_) {
    // Not for good: who sees to the disk may resume it, or move it again.
    port_.StayPaused();
  }
  return status;
}

void Source::StopTracking() {
  if (tracking_) {
    port_.StopDirtyTracking();
    tracking_ = false;
  }
}

std::string Source::where() const {
  const TimedMutexLock lock(&mutex_);
  return where_;
}

absl::Status Source::Cancel() {
  if (state_.Change(MoveState::kNone, MoveState::kCancelled)) {
    return absl::OkStatus();
  }
  for (const MoveState from : {MoveState::kSetup, MoveState::kActive, MoveState::kDevice}) {
    if (state_.Change(from, MoveState::kCancelling)) {
      cancelled_ = true;
      cancel_.Signal();
      // What was begun is done: nobody asks again.
      UntilThereIsMemory([this] {
        const TimedMutexLock lock(&mutex_);
        if (pages_ != nullptr) {
          pages_->Shutdown();
        }
        if (control_ != nullptr) {
          // The destination is told when the guest is this side's again.
          control_->Interrupt(absl::CancelledError("cancelled"));
        }
      });
      return absl::OkStatus();
    }
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the move cannot be cancelled any more: it is ", MoveStateName(state_.get())));
}

absl::Status Source::StartPostcopy() {
  const MoveState now = state_.get();
  if (now != MoveState::kActive) {
    return absl::FailedPreconditionError(absl::StrCat("the move is not in its rounds, but ", MoveStateName(now)));
  }
  if (!postcopy_possible_) {
    return absl::FailedPreconditionError("the destination cannot do post-copy; `ferrite doctor` there says why");
  }
  postcopy_wanted_ = true;
  return absl::OkStatus();
}

void Source::Publish(const std::function<void(MoveProgress&)>& change) {
  {
    const TimedMutexLock lock(&mutex_);
    change(progress_);
  }
  if (on_progress_) {
    // A move does not end for want of words about it.
    IfThereIsMemory([this] { on_progress_(progress()); });
  }
}

void Source::PublishStart() {
  Publish([this](MoveProgress& progress) {
    mutex_.AssertHeld();
    progress.round = round_;
    round_start_ = MonotonicTime::Now();
    sent_before_ = pages_ == nullptr ? 0 : pages_->sent_bytes();
  });
}

MoveProgress Source::progress() const {
  const TimedMutexLock lock(&mutex_);
  MoveProgress progress = progress_;
  progress.state = state_.get();
  progress.sent_bytes = earlier_.bytes;
  if (pages_ != nullptr) {
    progress.sent_bytes += pages_->sent_bytes();
    progress.faults = pages_->faults();
    progress.remaining_bytes = progress.state == MoveState::kCompleted ? 0 : pages_->PendingBytes();
    if (const absl::Duration took = MonotonicTime::Now() - round_start_; took > kRateOver) {
      progress.rate = static_cast<double>(pages_->sent_bytes() - sent_before_) / absl::ToDoubleSeconds(took);
    }
  }
  return progress;
}

MoveReport Source::report() const {
  const TimedMutexLock lock(&mutex_);
  MoveReport report = report_;
  if (pages_ != nullptr) {
    pages_->FillReport(report);
  }
  AddPages(earlier_, report);
  return report;
}

}  // namespace ferrite::migration
