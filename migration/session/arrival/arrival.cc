#include "migration/session/arrival/arrival.h"

#include <algorithm>
#include <utility>

#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite::migration {

ArrivalLink::ArrivalLink(CancelToken broken, CancelToken& cancel) : broken_(std::move(broken)), cancel_(cancel) {
  BreakOnCancel();
}

void ArrivalLink::SetPeer(std::unique_ptr<ControlPeer> peer) {
  peer_ = std::move(peer);
  const auto interrupt = [peer = peer_.get()](const absl::Status& why) { peer->Interrupt(why); };
  interrupt_on_cancel_.emplace(cancel_, interrupt);
  interrupt_when_broken_.emplace(broken_, interrupt);
}

void ArrivalLink::SetChannels(PageFeeds page, UrgentFeeds urgent) {
  page_ = std::move(page);
  urgent_ = std::move(urgent);
  {
    const TimedMutexLock lock(&mutex_);
    is_shut_down_ = false;
    channels_.assign(page_.size(), {});
  }
  shut_channels_down_.emplace(broken_, [this](const absl::Status&) { ShutChannelsDown(); });
}

bool ArrivalLink::LoseOne(size_t channel) {
  const TimedMutexLock lock(&mutex_);
  const auto lives = [](const PageChannel& one) { return !one.lost; };
  if (is_shut_down_ || std::count_if(channels_.begin(), channels_.end(), lives) == 1) {
    return false;
  }
  channels_[channel].lost = true;
  return true;
}

bool ArrivalLink::EndOne(size_t channel) {
  const TimedMutexLock lock(&mutex_);
  channels_[channel].ended = true;
  return channels_[channel].asked;
}

bool ArrivalLink::AskOne(size_t channel) {
  const TimedMutexLock lock(&mutex_);
  channels_[channel].asked = true;
  return channels_[channel].ended;
}

bool ArrivalLink::BreaksWithin(const Clock& clock, absl::Duration limit) {
  const TimedMutexLock lock(&mutex_);
  mutex_.AwaitFor(clock, absl::Condition(&is_shut_down_), limit);
  return broken_.cancelled();
}

void ArrivalLink::ShutChannelsDown() {
  {
    const TimedMutexLock lock(&mutex_);
    is_shut_down_ = true;
  }
  for (const auto& feed : page_) {
    feed->Shutdown();
  }
  for (const auto& feed : urgent_) {
    feed->Shutdown();
  }
}

void ArrivalLink::EndThreads() {
  receivers.clear();
  faults.reset();
}

void ArrivalLink::End() {
  ShutChannelsDown();
  EndThreads();
  // Who cancels does not use them any more when these are gone.
  interrupt_on_cancel_.reset();
  interrupt_when_broken_.reset();
  shut_channels_down_.reset();
  on_cancel_.reset();
  peer_.reset();
  page_.clear();
  urgent_.clear();
}

void ArrivalLink::Close() {
  End();
  broken_.Renew();
  BreakOnCancel();
}

void ArrivalLink::BreakOnCancel() {
  on_cancel_.emplace(cancel_, [this](const absl::Status& why) { broken_.Cancel(why); });
}

absl::StatusOr<std::unique_ptr<Arrival>> Arrival::Create(const Host& host, MachineBuilder& builder,
                                                         ArrivalOptions options, ArrivalShared& shared) {
  FERRITE_ASSIGN_OR_RETURN(CancelToken broken, CancelToken::Create());
  FERRITE_ASSIGN_OR_RETURN(RequestQueue requests, RequestQueue::Create());
  return std::make_unique<Arrival>(host, builder, std::move(options), shared, std::move(broken), std::move(requests));
}

Arrival::Arrival(const Host& host, MachineBuilder& builder, ArrivalOptions options, ArrivalShared& shared,
                 CancelToken broken, RequestQueue requests)
    : host(host),
      builder(builder),
      options(std::move(options)),
      shared(shared),
      drops(host),
      requests(std::move(requests)),
      watch(host.clock),
      link(std::move(broken), shared.cancel()) {}

Arrival::~Arrival() {
  UntilThereIsMemory([this] { link.broken().Cancel(absl::CancelledError("the session ends")); });
  LetGoOfWaiters();
}

void Arrival::MakeGate() {
  fail_gate.reset();
  gate = std::make_unique<RoundGate>(terms.page_channels);
  fail_gate.emplace(link.broken(), [gate = gate.get()](const absl::Status& why) { gate->Fail(why); });
}

void Arrival::LetGoOfWaiters() {
  if (armed && !settled) {
    for (IncomingPart* part : parts) {
      part->LetGo();
    }
  }
}

void Arrival::AbandonParts() {
  for (IncomingPart* part : parts) {
    UntilThereIsMemory([part] { part->Abandoned(); });
  }
}

void Arrival::DropMachine() {
  AbandonParts();
  placement.reset();
  parts.clear();
  memory.reset();
  machine.reset();
}

absl::string_view Arrival::GuestWords() const {
  return machine->guest().Ended() ? "the guest came, and has ended since" : "the guest is here";
}

void Arrival::OnPage() {
  if (placement->missing() == 0) {
    shared.whole = true;
    watch.Wake();
  }
}

}  // namespace ferrite::migration
