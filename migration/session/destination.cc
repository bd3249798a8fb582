#include "migration/session/destination.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "base/timed_mutex.h"
#include "migration/channel/crowd.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/version.h"
#include "migration/session/door.h"

namespace ferrite::migration {
namespace {

constexpr uint32_t kPackageVersion = 1;
// How long to wait for the source's word of why a channel broke, when somebody here waits for the end.
constexpr absl::Duration kWords = absl::Milliseconds(100);
// A guest that runs here already when this side is to end: its memory is waited for while it comes, not without an end.
constexpr absl::Duration kIdleWhenLeaving = absl::Seconds(2);
constexpr absl::Duration kMostWhenLeaving = absl::Seconds(5);

}  // namespace

absl::StatusOr<std::unique_ptr<Destination>> Destination::Create(DestinationFactory& factory, Options options) {
  FERRITE_ASSIGN_OR_RETURN(EventFd cancel, EventFd::Create());
  return std::unique_ptr<Destination>(new Destination(factory, std::move(options), std::move(cancel)));
}

Destination::Destination(DestinationFactory& factory, Options options, EventFd cancel)
    : factory_(factory), options_(std::move(options)), cancel_(std::move(cancel)) {}

Destination::~Destination() {
  UntilThereIsMemory([this] { Break(absl::CancelledError("the session ends")); });
  AdoptPeer(nullptr);
  StopFaults();
  receivers_.clear();
}

absl::Status Destination::Run(Listener& listener) {
  if (!state_.Change(MoveState::kNone, MoveState::kSetup)) {
    return absl::CancelledError("cancelled");
  }
  Lobby lobby(listener,
              {.first_bytes = kPreambleBytes,
               .patience = options_.patience,
               .keep_free = options_.machine_descriptors,
               .from = options_.from},
              [this](const std::string& who, absl::string_view why) { drops_.Log(who, why); });
  const absl::Status status = CatchOutOfMemory([&] { return RunPhases(lobby); });
  return status.ok() ? status : GiveUp(status);
}

absl::Status Destination::RunPhases(Lobby& lobby) {
  FERRITE_RETURN_IF_ERROR(AwaitMachine(lobby));
  FERRITE_RETURN_IF_ERROR(Annotate(AcceptChannels(lobby), "setup"));
  // From here on the whole time: behind GRANT nothing is made that may be missing then.
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Doorman> doorman, Doorman::Create(lobby, id_, drops_));
  FERRITE_RETURN_IF_ERROR(Annotate(Prepare(), "advise"));
  if (!state_.Change(MoveState::kSetup, MoveState::kActive)) {
    return absl::CancelledError("cancelled");
  }
  peer_->SetSilence(options_.silence);
  FERRITE_RETURN_IF_ERROR(StartReceivers(/*live=*/false));
  const Urgency urgency;
  absl::Status status = CatchOutOfMemory([this] { return ReceiveUntilRunning(); });
  while (true) {
    if (status.ok()) {
      status = CatchOutOfMemory([this] { return ReceiveTheRest(); });
    }
    if (status.ok() || !MayComeBack()) {
      break;
    }
    doorman.reset();
    IfThereIsMemory(
        [&] { Log().warn("receive: {}; waiting for the source to come back", std::string(status.message())); });
    if (!absl::IsUnavailable(status) && !absl::IsOutOfRange(status)) {
      // What went wrong is not the connection: a person at the source is to read it.
      peer_->SendLastWords(status);
    }
    Break(status);
    if (const absl::Status back = Recover(lobby); !back.ok()) {
      // Why the connection was lost says more than that nobody came back.
      status = revoked_ ? back : status;
      break;
    }
    status = absl::OkStatus();
    // The move can do without.
    IfThereIsMemory([&] {
      if (auto another = Doorman::Create(lobby, id_, drops_); another.ok()) {
        doorman = *std::move(another);
      } else {
        Log().warn("receive: other sources are not answered: {}", std::string(another.status().message()));
      }
    });
  }
  if (settled_) {
    if (!status.ok()) {
      // The guest came whole; the source stays paused until a person tells it so.
      IfThereIsMemory([&] {
        Log().warn("receive: {}, but the source could not be told: {}", GuestWords(), std::string(status.message()));
      });
    }
    FERRITE_CHECK(state_.Change(MoveState::kPostcopyActive, MoveState::kCompleted));
    return absl::OkStatus();
  }
  return status;
}

absl::Status Destination::AwaitMachine(Lobby& lobby) {
  absl::Status status;
  {
    Greeter greeter(
        {.patience = options_.patience}, drops_, [this] { cancel_.Signal(); },
        [this](const absl::Status& reason) { Break(reason); });
    lobby.SetLetGo([&greeter] { return greeter.LetGo(); });
    status = GreetUntilAccepted(greeter, lobby);
    lobby.SetLetGo(nullptr);
    // The machine is made, and its channels come next.
    lobby.KeepFree(0);
    greeter.SendAway(status.ok() ? absl::UnavailableError(kBusy)
                                 : Annotate(status, "the destination waits for nobody any more"));
  }
  FERRITE_RETURN_IF_ERROR(status);
  // Nobody has news any more. What else was signalled is seen here, or its signal is still to come.
  cancel_.Drain();
  if (cancelled_) {
    return absl::CancelledError("cancelled");
  }
  const TimedMutexLock lock(&mutex_);
  return broken_;
}

absl::Status Destination::GreetUntilAccepted(Greeter& greeter, Lobby& lobby) {
  while (true) {
    // A cancel says so before it signals, like all that there is to see: it is seen here, or its signal is still to
    // come.
    cancel_.Drain();
    if (cancelled_) {
      return absl::CancelledError("cancelled");
    }
    if (std::optional<Greeter::Chosen> chosen = greeter.Look(); chosen.has_value()) {
      // Others are greeted meanwhile: it may be refused.
      if (Accept(*std::move(chosen))) {
        return absl::OkStatus();
      }
      continue;
    }
    absl::StatusOr<Lobby::Arrival> arrival = lobby.Next(cancel_, greeter.deadline());
    if (!arrival.ok()) {
      if (absl::IsCancelled(arrival.status()) || absl::IsDeadlineExceeded(arrival.status())) {
        continue;
      }
      return arrival.status();
    }
    const absl::StatusOr<Preamble> preamble = ReadPreamble(*arrival);
    if (!preamble.ok() || preamble->role != ChannelRole::kControl) {
      drops_.Log(arrival->stream->peer(), preamble.ok() ? "it belongs to no move" : preamble.status().message());
      continue;
    }
    arrival->stream->SetPatience(options_.silence);
    std::string origin = OriginOf(arrival->stream->fd());
    greeter.Admit(std::move(arrival->stream), std::move(origin), preamble->move_id);
  }
}

bool Destination::Accept(Greeter::Chosen chosen) {
  id_ = chosen.terms.id;
  features_ = chosen.terms.features;
  page_channels_ = chosen.terms.page_channels;
  urgent_channels_ = chosen.terms.urgent_channels;
  AdoptPeer(std::move(chosen.peer));
  const absl::Status built = Build(chosen.machine);
  absl::Status answered = built.ok() ? SendAccept() : absl::OkStatus();
  // That it can be written to does not mean that it is still there.
  answered.Update(peer_->failure());
  if (built.ok() && answered.ok()) {
    peer_->SetPatience(options_.silence);
    peer_->SetMostBytes(kMaxControlBytes);
    landscape_ = std::make_unique<Landscape>(port_->memory());
    {
      const TimedMutexLock lock(&mutex_);
      waits_ = std::make_unique<WaitAccounts>([this](pid_t thread) { return port_->VcpuOfThread(thread); });
      gate_ = std::make_unique<RoundGate>(page_channels_);
    }
    factory_.Accepted();
    return true;
  }
  if (cancelled_) {
    // The source is still to hear that.
    return false;
  }
  if (!built.ok()) {
    drops_.LogRefusal(chosen.who, built.message());
  } else {
    drops_.Log(chosen.who, answered.message());
  }
  // Its thread is joined: from here on it breaks nothing any more.
  AdoptPeer(nullptr);
  port_.reset();
  factory_.Dropped();
  // A cancel meanwhile is seen next.
  const TimedMutexLock lock(&mutex_);
  broken_ = absl::OkStatus();
  return false;
}

absl::Status Destination::CheckRegions(const MachineSpec& spec) {
  const std::vector<MachineSpec::Region>& theirs = spec.regions;
  const auto ours = port_->memory().regions();
  if (theirs.size() != ours.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the machine has ", theirs.size(), " memory regions, here it would have ", ours.size()));
  }
  for (size_t i = 0; i < theirs.size(); ++i) {
    if (theirs[i].base != ours[i]->base().value() || theirs[i].bytes != ours[i]->bytes()) {
      return absl::FailedPreconditionError(absl::StrCat("memory region ", ours[i]->name(), " has ", theirs[i].bytes,
                                                        " bytes at ", theirs[i].base, " at the source, but ",
                                                        ours[i]->bytes(), " at ", ours[i]->base().value(), " here"));
    }
  }
  return absl::OkStatus();
}

void Destination::SendRefuse(const absl::Status& reason) {
  (void)peer_->Send(message::Refuse{.reason = std::string(reason.message())});
}

absl::Status Destination::Build(const MachineSpec& spec) {
  const absl::Status built = CatchOutOfMemory([&]() -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(port_, factory_.Build(spec));
    return CheckRegions(spec);
  });
  if (!built.ok()) {
    (void)peer_->SendBriefly(message::Refuse{.reason = std::string(built.message())});
  }
  return built;
}

absl::Status Destination::SendAccept() {
  const auto regions = port_->memory().regions();
  const auto features = Userfault::Probe();
  absl::Status able = features.status();
  for (size_t i = 0; able.ok() && i < regions.size(); ++i) {
    able = Placer::CanArm(regions[i]->backing(), *features);
  }
  if (able.ok() && (features_ & kFeaturePostcopy) == 0) {
    able = absl::FailedPreconditionError("the source knows no post-copy");
  }
  postcopy_possible_ = able.ok();
  // One that does not read keeps nobody else waiting.
  message::Accept accept{.postcopy = postcopy_possible_, .postcopy_reason = std::string(able.message())};
  for (const auto& region : regions) {
    accept.host_page_bytes.push_back(region->host_page_bytes());
  }
  return peer_->SendBriefly(accept);
}

absl::Status Destination::AcceptChannels(Lobby& lobby) {
  {
    const TimedMutexLock lock(&mutex_);
    page_.clear();
    page_.resize(page_channels_);
    urgent_.clear();
    urgent_.resize(urgent_channels_);
  }
  int due = page_channels_ + urgent_channels_;
  const MonotonicTime deadline = MonotonicTime::Now() + options_.patience;
  while (due > 0) {
    absl::StatusOr<Lobby::Arrival> arrival = lobby.Next(cancel_, deadline);
    if (!arrival.ok()) {
      FERRITE_RETURN_IF_ERROR(peer_->failure());
      return arrival.status();
    }
    const absl::StatusOr<Preamble> preamble = ReadPreamble(*arrival);
    std::unique_ptr<Stream>* place = nullptr;
    if (preamble.ok() && preamble->move_id == id_ && preamble->role != ChannelRole::kControl) {
      std::vector<std::unique_ptr<Stream>>& channels = preamble->role == ChannelRole::kPage ? page_ : urgent_;
      place = preamble->index < channels.size() ? &channels[preamble->index] : nullptr;
    }
    if (place == nullptr || *place != nullptr) {
      if (preamble.ok() && preamble->role == ChannelRole::kControl) {
        TurnAway(*arrival->stream, kBusy);
      }
      drops_.Log(arrival->stream->peer(),
                 preamble.ok() ? "it is no channel of this move" : preamble.status().message());
      continue;
    }
    arrival->stream->SetPatience(options_.silence);
    const TimedMutexLock lock(&mutex_);
    FERRITE_RETURN_IF_ERROR(broken_);
    *place = std::move(arrival->stream);
    --due;
  }
  return absl::OkStatus();
}

absl::Status Destination::StartReceivers(bool live) {
  {
    const TimedMutexLock lock(&mutex_);
    ended_channels_ = 0;
  }
  // One that started is never the one that there is no room for.
  receivers_.reserve(page_.size());
  for (const auto& stream : page_) {
    FERRITE_ASSIGN_OR_RETURN(Thread thread,
                             Thread::Start(absl::StrCat("mig-recv-", receivers_.size()),
                                           [this, stream = stream.get(), live] { ReceivePages(*stream, live); }));
    receivers_.push_back(std::move(thread));
  }
  return absl::OkStatus();
}

absl::Status Destination::Prepare() {
  FERRITE_RETURN_IF_ERROR(peer_->Expect<message::Advise>(options_.patience).status());
  // R8: nothing is locked and nothing ballooned before the end. Locked memory would be filled right here, and then no
  // page would ever be missing.
  port_->InhibitBalloon();
  inhibited_ = true;
  FERRITE_RETURN_IF_ERROR(port_->SetLocked(false));
  // Before the memory is emptied: it may use some.
  FERRITE_ASSIGN_OR_RETURN(const absl::Duration load, port_->MeasureLoad());
  for (size_t i = 0; i < landscape_->regions(); ++i) {
    MemoryRegion& region = landscape_->region(i);
    // A transparent huge page would hold pages that did not arrive.
    FERRITE_RETURN_IF_ERROR(region.SetThp(false));
    FERRITE_RETURN_IF_ERROR(region.Discard(0, region.bytes()).status());
  }
  return peer_->Send(message::Ready{.load = load});
}

void Destination::ReceivePages(Stream& stream, bool live) {
  BecomeBulk();
  PageReceiver receiver(stream, *landscape_, figures_);
  const auto receive = [&]() -> absl::Status {
    while (true) {
      FERRITE_ASSIGN_OR_RETURN(const PageHeader header, receiver.ReceiveOne(live));
      if (header.type != PageFrameType::kRound) {
        if (live) {
          waits_->End(header.region, header.first_page, header.count, MonotonicTime::Now());
          OnPage();
        }
      } else if (live) {
        if (header.count != kLastRound) {
          return absl::InvalidArgumentError("page frame: another round in post-copy");
        }
        const TimedMutexLock lock(&mutex_);
        ++ended_channels_;
        return absl::OkStatus();
      } else {
        FERRITE_ASSIGN_OR_RETURN(const RoundGate::Next next, gate_->Arrive(header.count));
        if (next == RoundGate::Next::kEnd) {
          // The guest's memory is its own from here on, whatever else may come.
          return absl::OkStatus();
        }
        live = next == RoundGate::Next::kLive;
      }
    }
  };
  if (const absl::Status status = CatchOutOfMemory(receive); !status.ok()) {
    Break(status);
  }
}

absl::Status Destination::ReceiveUntilRunning() {
  while (state_.get() != MoveState::kPostcopyActive) {
    // Rounds take what they take.
    const absl::StatusOr<Message> message = peer_->Next(loaded_ ? options_.patience : absl::InfiniteDuration());
    if (!message.ok()) {
      const TimedMutexLock lock(&mutex_);
      return broken_.ok() ? message.status() : broken_;
    }
    if (cancelled_) {
      // Much may wait in the queue.
      return absl::CancelledError("cancelled");
    }
    FERRITE_RETURN_IF_ERROR(On(*message));
  }
  return absl::OkStatus();
}

absl::Status Destination::On(const Message& message) {
  if (const auto* const round = std::get_if<message::Round>(&message); round != nullptr) {
    return Annotate(OnRound(*round), "pre-copy");
  }
  if (const auto* const discard = std::get_if<message::Discard>(&message); discard != nullptr) {
    return Annotate(OnDiscard(*discard), "switchover");
  }
  if (const auto* const package = std::get_if<message::Package>(&message); package != nullptr) {
    return Annotate(OnPackage(*package), "switchover");
  }
  if (const auto* const grant = std::get_if<message::Grant>(&message); grant != nullptr) {
    return Annotate(OnGrant(*grant), "grant");
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the source sent ", MessageName(message), " while the guest was being received"));
}

absl::Status Destination::OnRound(const message::Round& round) {
  if (state_.get() != MoveState::kActive) {
    return absl::InvalidArgumentError("ROUND came after the last one");
  }
  FERRITE_RETURN_IF_ERROR(gate_->AwaitAll(round.number));
  if (!round.last) {
    gate_->Open(RoundGate::Next::kRound);
    return absl::OkStatus();
  }
  // The channels wait at the gate until PACKAGE says how pages are placed from here on.
  return state_.Change(MoveState::kActive, MoveState::kDevice) ? absl::OkStatus() : absl::CancelledError("cancelled");
}

absl::Status Destination::OnDiscard(const message::Discard& discard) {
  if (loaded_ || postcopy_) {
    return absl::InvalidArgumentError("DISCARD came after PACKAGE");
  }
  uint64_t pages_left = landscape_->pages();
  for (const PageRange& range : discard.ranges) {
    PageRun run{.first = range.first, .count = range.count};
    if (range.region >= landscape_->regions() || !landscape_->placer(range.region).IsWhole(run)) {
      return absl::InvalidArgumentError(absl::StrCat("DISCARD: pages ", run.first, "+", run.count, " of region ",
                                                     range.region, " are no whole host pages of it"));
    }
    if (run.count > pages_left) {
      return absl::InvalidArgumentError("DISCARD: more pages than there are");
    }
    pages_left -= run.count;
    Placer& placer = landscape_->placer(range.region);
    while (run.count > 0) {
      if (cancelled_) {
        return absl::CancelledError("cancelled");
      }
      FERRITE_RETURN_IF_ERROR(placer.Discard(placer.TakePiece(run)));
    }
  }
  return discard.last ? peer_->Send(message::Discarded{}) : absl::OkStatus();
}

absl::Status Destination::OnPackage(const message::Package& package) {
  if (state_.get() != MoveState::kDevice || loaded_) {
    return absl::InvalidArgumentError("PACKAGE came before the last round, or twice");
  }
  if (package.version != kPackageVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the package has version ", package.version, ", this side knows ", kPackageVersion));
  }
  postcopy_ = package.postcopy;
  if (postcopy_ && !postcopy_possible_) {
    return absl::FailedPreconditionError("post-copy was not accepted");
  }
  return ApplyPackage(package.blob);
}

absl::Status Destination::ApplyPackage(std::span<const uint8_t> blob) {
  // R7: all of it is checked before any of it is applied.
  FERRITE_RETURN_IF_ERROR(port_->CheckState(blob));
  if (postcopy_) {
    // Before loading, which may touch memory that is not here: pages flow meanwhile.
    FERRITE_ASSIGN_OR_RETURN(userfault_, Userfault::Create());
    for (size_t i = 0; i < landscape_->regions(); ++i) {
      FERRITE_RETURN_IF_ERROR(landscape_->placer(i).Arm(*userfault_));
    }
    FERRITE_RETURN_IF_ERROR(ServeFaults(urgent_, /*ask_again=*/false));
  } else if (landscape_->missing() != 0) {
    return absl::DataLossError(absl::StrCat(landscape_->missing(), " pages were never sent"));
  }
  gate_->Open(postcopy_ ? RoundGate::Next::kLive : RoundGate::Next::kEnd);
  // Nothing may have been missing at all.
  OnPage();
  const MonotonicTime start = MonotonicTime::Now();
  {
    const TimedMutexLock lock(&mutex_);
    FERRITE_RETURN_IF_ERROR(broken_);
    loading_ = true;
  }
  const absl::Status status = port_->LoadState(blob);
  const absl::Duration load = MonotonicTime::Now() - start;
  {
    const TimedMutexLock lock(&mutex_);
    loading_ = false;
    load_ = load;
    FERRITE_RETURN_IF_ERROR(broken_);
  }
  FERRITE_RETURN_IF_ERROR(status);
  loaded_ = true;
  return peer_->Send(message::Loaded{.load = load});
}

absl::Status Destination::ServeFaults(std::span<const std::unique_ptr<Stream>> urgent, bool ask_again) {
  for (const auto& stream : page_) {
    // There are none while the source is gone.
    if (stream != nullptr) {
      stream->LimitBuffers(kPostcopyBufferBytes);
    }
  }
  if (ask_again) {
    // Who faulted on a page that could not be placed has been forgotten: it faults again.
    for (size_t i = 0; i < landscape_->regions(); ++i) {
      FERRITE_RETURN_IF_ERROR(userfault_->Wake(landscape_->region(i).guest_mapping()));
    }
  }
  const auto on_failure = [this, connected = !urgent.empty()](const absl::Status& status) {
    if (connected) {
      Break(status);
    } else {
      IfThereIsMemory([&] { Log().warn("receive: {}", std::string(status.message())); });
    }
  };
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<FaultServer> faults,
                           FaultServer::Create(*userfault_, *landscape_, urgent, *waits_, figures_,
                                               {.on_failure = on_failure, .on_page = [this] { OnPage(); }}, ask_again));
  const TimedMutexLock lock(&mutex_);
  faults_ = std::move(faults);
  return absl::OkStatus();
}

absl::Status Destination::OnGrant(const message::Grant& grant) {
  epoch_ = grant.epoch;
  if (grant.move_id != id_) {
    return absl::InvalidArgumentError("GRANT is for another move");
  }
  if (!loaded_) {
    return absl::InvalidArgumentError("GRANT came before the state was loaded");
  }
  const MonotonicTime start = MonotonicTime::Now();
  // A cancel here and this change: one of them wins (R2).
  if (!state_.Change(MoveState::kDevice, MoveState::kPostcopyActive)) {
    return absl::CancelledError("cancelled");
  }
  // An error of it says that the guest does not run.
  const absl::Status ran = CatchOutOfMemory([this]() -> absl::Status {
    FERRITE_RETURN_IF_ERROR(port_->AcquireDisks());
    return port_->Run();
  });
  if (!ran.ok()) {
    // The source takes the guest back when it hears this, so the guest must not run here after it is said.
    FERRITE_CHECK(state_.Change(MoveState::kPostcopyActive, MoveState::kFailing));
    UntilThereIsMemory([&] { SendRefuse(ran); });
    return ran;
  }
  const absl::Duration run = MonotonicTime::Now() - start;
  {
    const TimedMutexLock lock(&mutex_);
    run_ = run;
  }
  return peer_->Send(message::Running{.epoch = epoch_});
}

void Destination::OnPage() {
  if (landscape_->missing() == 0) {
    const TimedMutexLock lock(&mutex_);
    all_pages_ = true;
  }
}

absl::Status Destination::AwaitAllPages() {
  uint64_t missing = 0;
  bool leaving = false;
  MonotonicTime until = MonotonicTime::InfiniteFuture();
  const TimedMutexLock lock(&mutex_);
  const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return all_pages_ || !broken_.ok() || leaving_ != leaving;
  };
  while (!all_pages_ && broken_.ok()) {
    const absl::Duration step = leaving ? kIdleWhenLeaving : options_.silence;
    if (mutex_.AwaitFor(absl::Condition(&done), step)) {
      if (std::exchange(leaving, leaving_.load()) != leaving) {
        missing = landscape_->missing();
        until = MonotonicTime::Now() + kMostWhenLeaving;
      }
      continue;
    }
    const uint64_t before = std::exchange(missing, landscape_->missing());
    if (leaving && (missing == before || MonotonicTime::Now() >= until)) {
      return absl::CancelledError(
          absl::StrCat("this side is to end, and ", missing, " host pages have not come in time"));
    }
    // When the source has sent all that it had, only answers to requests are still on their way.
    if (ended_channels_ == page_.size() && missing == before) {
      return absl::UnavailableError(absl::StrCat("the source ended, but ", missing, " host pages never came"));
    }
  }
  return all_pages_ ? absl::OkStatus() : broken_;
}

void Destination::EndChannels() {
  if (postcopy_) {
    {
      const TimedMutexLock lock(&mutex_);
      const auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return ended_channels_ == page_.size() || !broken_.ok();
      };
      const auto ended_or_leaving = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ended() || leaving_; };
      if (mutex_.AwaitFor(absl::Condition(&ended_or_leaving), options_.silence) && leaving_) {
        (void)mutex_.AwaitFor(absl::Condition(&ended), kIdleWhenLeaving);
      }
      if (faults_ != nullptr) {
        faults_->End();
      }
    }
    // One may be in the middle of a frame, of pages that are here, or of a source that never ends.
    for (const auto* channels : {&page_, &urgent_}) {
      for (const auto& stream : *channels) {
        stream->Shutdown();
      }
    }
  }
  receivers_.clear();
  StopFaults();
}

absl::Status Destination::ReceiveTheRest() {
  FERRITE_RETURN_IF_ERROR(Annotate(AwaitAllPages(), "post-copy"));
  if (!settled_) {
    FERRITE_RETURN_IF_ERROR(Annotate(SettleIn(), "end"));
  }
  FERRITE_RETURN_IF_ERROR(Annotate(TellThatAllIsHere(), "end"));
  return Annotate(AwaitHeard(), "end");
}

absl::Status Destination::SettleIn() {
  // Nobody may place anything when faults are the kernel's again.
  EndChannels();
  for (size_t i = 0; i < landscape_->regions(); ++i) {
    FERRITE_RETURN_IF_ERROR(landscape_->placer(i).Disarm());
  }
  absl::Status after = port_->AllowThp();
  after.Update(port_->SetLocked(true));
  port_->AllowBalloon();
  inhibited_ = false;
  if (!after.ok()) {
    // The guest is here and runs; that it is not locked is no reason to lose it.
    Log().error("receive: the guest's memory is not locked or has no huge pages: {}", std::string(after.message()));
  }
  settled_ = true;
  return absl::OkStatus();
}

absl::Status Destination::TellThatAllIsHere() {
  MoveReport figures = report();
  return peer_->Send(message::Shut{.ok = true,
                                   .message = "",
                                   .figures = {.faults = figures.faults,
                                               .minor_faults = figures.minor_faults,
                                               .duplicate_pages = figures.duplicate_pages,
                                               .waiting = std::move(figures.waiting)}});
}

absl::Status Destination::AwaitHeard() {
  const MonotonicTime deadline = MonotonicTime::Now() + options_.patience;
  // END may come before or after SHUT was sent.
  while (true) {
    const absl::Duration left = deadline - MonotonicTime::Now();
    const absl::StatusOr<Message> message = peer_->Next(std::clamp(left, absl::ZeroDuration(), kIdleWhenLeaving));
    if (message.ok() && std::holds_alternative<message::Heard>(*message)) {
      return absl::OkStatus();
    }
    const bool over = leaving_ || left <= absl::ZeroDuration();
    if (!message.ok() && (over || !absl::IsDeadlineExceeded(message.status()))) {
      // A source that does not say that it heard closes when it did.
      return (features_ & kFeatureRecovery) != 0 ? message.status() : absl::OkStatus();
    }
    if (over) {
      return absl::DeadlineExceededError("the source did not say in time that it heard that all is here");
    }
  }
}

absl::string_view Destination::GuestWords() const {
  return port_->Ended() ? "the guest came, and has ended since" : "the guest is here";
}

void Destination::Leave() {
  leaving_ = true;
  if (waiting_) {
    UntilThereIsMemory([this] { Break(absl::CancelledError("the wait for the source was ended")); });
    return;
  }
  // Wakes who waits for pages.
  const TimedMutexLock lock(&mutex_);
}

absl::Status Destination::GiveUp(const absl::Status& reason) {
  (void)state_.Change(MoveState::kPostcopyActive, MoveState::kPostcopyPaused);
  if (state_.get() == MoveState::kPostcopyPaused) {
    return CatchOutOfMemory([&] {
      return absl::Status(reason.code(),
                          absl::StrCat(reason.message(), "; ", GuestWords(), ", without the pages that are missing"));
    });
  }
  absl::Status why = reason;
  (void)CatchOutOfMemory([&] {
    why = WordsFor(reason);
    return absl::OkStatus();
  });
  for (const MoveState from : {MoveState::kSetup, MoveState::kActive, MoveState::kDevice}) {
    if (state_.Change(from, MoveState::kFailing)) {
      break;
    }
  }
  const bool cancelled = state_.get() == MoveState::kCancelling;
  const absl::Status told = CatchOutOfMemory([&]() -> absl::Status {
    if (peer_ == nullptr) {
      return absl::OkStatus();
    }
    if (peer_->failure().ok()) {
      if (loaded_) {
        // GRANT may be on its way. The source takes the guest back when it hears that it does not run here.
        UntilThereIsMemory([&] { SendRefuse(why); });
      } else {
        peer_->SendLastWords(why);
      }
    }
    return absl::OkStatus();
  });
  if (peer_ != nullptr) {
    peer_->Shutdown(told.ok() ? why : told);
  }
  Break(why);
  StopFaults();
  receivers_.clear();
  if (inhibited_) {
    port_->AllowBalloon();
  }
  FERRITE_CHECK(cancelled ? state_.Change(MoveState::kCancelling, MoveState::kCancelled)
                          : state_.Change(MoveState::kFailing, MoveState::kFailed));
  return why;
}

absl::Status Destination::WordsFor(const absl::Status& reason) {
  if (peer_ == nullptr || (!absl::IsUnavailable(reason) && !absl::IsOutOfRange(reason))) {
    return reason;
  }
  // A source that gives up closes the page channels first, then takes its guest back, disks and all, and says why after
  // that. All this is not done yet, so that a cancel can still come, and ends the wait.
  const auto over = [this] { return cancelled_ || !peer_->failure().ok(); };
  {
    const TimedMutexLock lock(&mutex_);
    (void)mutex_.AwaitFor(absl::Condition(&over), options_.silence);
  }
  peer_->AwaitFailure(kWords);
  return peer_->said_why() ? peer_->failure() : reason;
}

void Destination::StopFaults() {
  std::unique_ptr<FaultServer> faults;
  {
    const TimedMutexLock lock(&mutex_);
    faults = std::move(faults_);
    if (faults != nullptr) {
      fault_count_ += faults->faults();
      minor_fault_count_ += faults->minor_faults();
    }
  }
}

absl::Status Destination::SetPeer(std::unique_ptr<Stream> stream) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<ControlPeer> peer,
                           ControlPeer::Create(std::move(stream),
                                               ControlPeer::Options{.thread_name = "mig-dst-ctl",
                                                                    .peer_name = "the source",
                                                                    .silence = options_.silence,
                                                                    .most_bytes = kMaxGreetingBytes},
                                               [this](const absl::Status& reason) { Break(reason); }));
  AdoptPeer(std::move(peer));
  return absl::OkStatus();
}

void Destination::AdoptPeer(std::unique_ptr<ControlPeer> peer) {
  // The one before ends without the lock: its thread may want it.
  const TimedMutexLock lock(&mutex_);
  peer_.swap(peer);
}

void Destination::Break(const absl::Status& reason) {
  const TimedMutexLock lock(&mutex_);
  if (broken_.ok()) {
    broken_ = reason;
  }
  if (loading_ && userfault_ != nullptr) {
    // Loading may wait for a page that never comes now; nothing that it makes is used.
    for (size_t i = 0; i < landscape_->regions(); ++i) {
      (void)userfault_->Unregister(landscape_->region(i).guest_mapping());
    }
  }
  cancel_.Signal();
  const MoveState state = state_.get();
  if (peer_ != nullptr &&
      (state == MoveState::kSetup || state == MoveState::kActive || cancelled_ || (waiting_ && leaving_))) {
    // The thread of Run() hears of it, and tells the source why. Later it waits for the source's word: it may come
    // back.
    peer_->Interrupt(reason);
  }
  if (gate_ != nullptr) {
    gate_->Fail(reason);
  }
  for (const auto* channels : {&page_, &urgent_}) {
    for (const auto& stream : *channels) {
      if (stream != nullptr) {
        stream->Shutdown();
      }
    }
  }
}

absl::Status Destination::Cancel() {
  if (state_.Change(MoveState::kNone, MoveState::kCancelled)) {
    return absl::OkStatus();
  }
  for (const MoveState from : {MoveState::kSetup, MoveState::kActive, MoveState::kDevice}) {
    if (state_.Change(from, MoveState::kCancelling)) {
      cancelled_ = true;
      // What was begun is done: nobody asks again.
      UntilThereIsMemory([this] {
        factory_.Cancelled();
        Break(absl::CancelledError("cancelled"));
      });
      return absl::OkStatus();
    }
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the move cannot be cancelled any more: it is ", MoveStateName(state_.get())));
}

MoveReport Destination::report() const {
  const TimedMutexLock lock(&mutex_);
  MoveReport report;
  report.postcopy = postcopy_;
  report.load = load_;
  report.run = run_;
  report.data_pages = figures_.pages;
  report.zero_pages = figures_.zero_pages;
  report.duplicate_pages = figures_.duplicate_pages;
  report.copied_pages = figures_.copied_pages;
  report.bytes = figures_.bytes;
  report.faults = fault_count_ + (faults_ != nullptr ? faults_->faults() : 0);
  report.minor_faults = minor_fault_count_ + (faults_ != nullptr ? faults_->minor_faults() : 0);
  if (waits_ != nullptr) {
    report.waiting = waits_->Figures();
  }
  return report;
}

}  // namespace ferrite::migration
