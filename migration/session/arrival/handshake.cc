#include "migration/session/arrival/handshake.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/channel/outside_writers.h"
#include "migration/placing/incoming_part.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/version.h"
#include "migration/secret/move_secret.h"
#include "migration/session/door.h"

namespace ferrite::migration {
namespace {

// Whether what the source brings, but for what is declined, is what there is here now.
absl::Status CheckRegions(const std::vector<MachineSpec::Region>& taken, std::span<IncomingPart* const> parts) {
  size_t ours = 0;
  for (const IncomingPart* part : parts) {
    ours += part->regions();
  }
  if (taken.size() != ours) {
    return absl::FailedPreconditionError(
        absl::StrCat("the machine has ", taken.size(), " memory regions, here it would have ", ours));
  }
  std::span<const MachineSpec::Region> theirs(taken);
  for (const IncomingPart* part : parts) {
    FERRITE_RETURN_IF_ERROR(part->Check(theirs.first(part->regions())));
    theirs = theirs.subspan(part->regions());
  }
  return absl::OkStatus();
}

bool Declines(Arrival& arrival, const MachineSpec::Region& offered) {
  return offered.kind == RegionKind::kDisk && (arrival.terms.features & kFeatureMirror) != 0 &&
         arrival.machine->Declines(offered);
}

// Makes the machine. An error was told to the source.
absl::Status Build(Arrival& arrival, const MachineSpec& spec) {
  absl::Status built = CatchOutOfMemory([&]() -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(arrival.machine, arrival.builder.Build(spec));
    arrival.memory = std::make_unique<MemoryLanding>(arrival.machine->memory(), arrival.host.clock);
    arrival.parts = arrival.machine->further_parts();
    arrival.parts.insert(arrival.parts.begin(), arrival.memory.get());
    std::vector<MachineSpec::Region> taken;
    for (const MachineSpec::Region& region : spec.regions) {
      if (!Declines(arrival, region)) {
        taken.push_back(region);
      }
    }
    return CheckRegions(taken, arrival.parts);
  });
  if (!built.ok()) {
    (void)arrival.peer().SendBriefly(message::Refuse{.reason = std::string(built.message())});
  }
  return built;
}

absl::Status SendAccept(Arrival& arrival, const MachineSpec& spec) {
  absl::Status able;
  std::vector<uint64_t> unit_bytes;
  for (IncomingPart* part : arrival.parts) {
    if (able.ok()) {
      able = part->OfferFaults(arrival.host.open_userfault);
    }
    for (size_t i = 0; i < part->regions(); ++i) {
      unit_bytes.push_back(part->placer(i).unit_bytes());
    }
  }
  message::Accept accept;
  auto next = unit_bytes.begin();
  for (const MachineSpec::Region& region : spec.regions) {
    accept.host_page_bytes.push_back(Declines(arrival, region) ? 0 : *next++);
  }
  if (able.ok() && (arrival.terms.features & kFeaturePostcopy) == 0) {
    able = absl::FailedPreconditionError("the source knows no post-copy");
  }
  arrival.postcopy_possible = able.ok();
  if (!able.ok()) {
    for (IncomingPart* part : arrival.parts) {
      part->WithdrawFaults();
    }
  }
  accept.postcopy = able.ok();
  accept.postcopy_reason = std::string(able.message());
  FERRITE_ASSIGN_OR_RETURN(accept.digest, arrival.credentials.Prove(Claim::kAccept, /*epoch=*/0));
  // One that does not read keeps nobody else waiting.
  return arrival.peer().SendBriefly(accept);
}

// Whether the machine of `chosen` is the one that comes. If not, nothing is left of it and of the connection.
bool Accept(Arrival& arrival, Greeter::Chosen chosen) {
  arrival.terms = chosen.terms;
  arrival.credentials = std::move(chosen.credentials);
  arrival.link.SetPeer(std::move(chosen.peer));
  ControlPeer& peer = arrival.peer();
  const absl::Status built = Build(arrival, chosen.machine);
  absl::Status answered = built.ok() ? SendAccept(arrival, chosen.machine) : absl::OkStatus();
  // That it can be written to does not mean that it is still there.
  answered.Update(peer.failure());
  if (built.ok() && answered.ok()) {
    peer.SetPatience(arrival.options.silence);
    peer.SetMostBytes(kMaxControlBytes);
    arrival.placement = std::make_unique<Placement>(arrival.parts);
    arrival.waits = std::make_shared<WaitAccounts>(
        [&arrival](pid_t thread) { return arrival.machine->guest().VcpuOfThread(thread); },
        [&arrival](size_t region, uint64_t page) { return arrival.placement->IsHere(region, page); });
    arrival.shared.TellWaits(arrival.waits);
    arrival.MakeGate();
    arrival.builder.Accepted();
    return true;
  }
  if (arrival.cancelled()) {
    // The source is still to hear that.
    return false;
  }
  if (!built.ok()) {
    arrival.drops.LogRefusal(chosen.who, built.message());
  } else {
    arrival.drops.Log(chosen.who, answered.message());
  }
  // Its thread is joined: from here on it breaks nothing any more.
  arrival.link.Close();
  arrival.DropMachine();
  arrival.builder.Dropped();
  return false;
}

absl::Status GreetUntilAccepted(Arrival& arrival, Greeter& greeter, ChannelAcceptor& acceptor, const EventFd& news) {
  while (true) {
    // What there is to see is there before it is signalled: it is seen here, or its signal is still to come.
    (void)news.Drain();
    if (arrival.cancelled()) {
      return absl::CancelledError("cancelled");
    }
    if (std::optional<Greeter::Chosen> chosen = greeter.Look(); chosen.has_value()) {
      // Others are greeted meanwhile: it may be refused.
      if (Accept(arrival, *std::move(chosen))) {
        return absl::OkStatus();
      }
      continue;
    }
    absl::StatusOr<std::unique_ptr<IncomingChannel>> next = acceptor.Next(news, greeter.deadline());
    if (!next.ok()) {
      if (absl::IsCancelled(next.status()) || absl::IsDeadlineExceeded(next.status())) {
        continue;
      }
      return next.status();
    }
    IncomingChannel& channel = **next;
    const absl::StatusOr<Preamble> preamble = ReadPreamble(channel);
    if (!preamble.ok() || preamble->role != ChannelRole::kControl) {
      if (preamble.ok() && preamble->role == ChannelRole::kRecover) {
        TurnAway(channel, "the destination knows nothing of this move, and waits for another machine");
      }
      arrival.drops.Log(channel.peer(), preamble.ok() ? "it belongs to no move" : preamble.status().message());
      continue;
    }
    greeter.Admit(channel.TakeControl(arrival.options.silence), channel.origin(), preamble->move_id);
  }
}

// The preamble of a page or urgent channel of this move that belongs to the last GRANT. Who is of another move was
// told.
absl::StatusOr<Preamble> CheckFurther(const Arrival& arrival, IncomingChannel& channel) {
  FERRITE_ASSIGN_OR_RETURN(const Preamble preamble, ReadPreamble(channel));
  const bool is_ours = preamble.move_id == arrival.terms.id;
  if (!is_ours || HasControlFrames(preamble.role)) {
    if (preamble.role == ChannelRole::kControl || (!is_ours && HasControlFrames(preamble.role))) {
      TurnAway(channel, kBusy);
    }
    return absl::InvalidArgumentError("it is no channel of this move");
  }
  const std::optional<ChannelProof> proof = channel.proof();
  FERRITE_RETURN_IF_ERROR(arrival.credentials.CheckChannel(preamble, proof));
  if (proof->epoch != arrival.epoch) {
    return absl::InvalidArgumentError(
        absl::StrCat("it is of epoch ", proof->epoch, ", but GRANT was of epoch ", arrival.epoch));
  }
  return preamble;
}

}  // namespace

absl::Status AwaitMachine(Arrival& arrival, ChannelAcceptor& acceptor) {
  FERRITE_ASSIGN_OR_RETURN(const EventFd news, EventFd::Create());
  const CancelToken::Callback on_cancel(arrival.shared.cancel(), [&](const absl::Status&) { news.Signal(); });
  Greeter greeter(
      {.patience = arrival.options.patience}, arrival.host, arrival.drops, [&news] { news.Signal(); },
      [&broken = arrival.link.broken()](const absl::Status& reason) { broken.Cancel(reason); });
  acceptor.SetLetGo([&greeter] { return greeter.LetGo(); });
  const absl::Cleanup let_nobody_go = [&acceptor] { acceptor.SetLetGo(nullptr); };
  const absl::Status status = GreetUntilAccepted(arrival, greeter, acceptor, news);
  // The machine is made, and its channels come next.
  acceptor.KeepNothing();
  greeter.SendAway(status.ok() ? absl::UnavailableError(kBusy)
                               : Annotate(status, "the destination waits for nobody any more"));
  FERRITE_RETURN_IF_ERROR(status);
  return arrival.link.broken().reason();
}

absl::Status AcceptChannels(Arrival& arrival, ChannelAcceptor& acceptor) {
  ArrivalLink::PageFeeds page(arrival.terms.page_channels);
  ArrivalLink::UrgentFeeds urgent(arrival.terms.urgent_channels);
  int due = arrival.terms.page_channels + arrival.terms.urgent_channels;
  const MonotonicTime deadline = arrival.Now() + arrival.options.patience;
  if (!std::exchange(arrival.has_writers, true)) {
    FERRITE_ASSIGN_OR_RETURN(std::shared_ptr<OutsideWriters> writers,
                             acceptor.SetMemory(arrival.memory->WritableFromOutside()));
    arrival.memory->SetOutsideWriters(std::move(writers));
  }
  while (due > 0) {
    absl::StatusOr<std::unique_ptr<IncomingChannel>> next = acceptor.Next(arrival.link.broken().event(), deadline);
    if (!next.ok()) {
      FERRITE_RETURN_IF_ERROR(arrival.peer().failure());
      return next.status();
    }
    IncomingChannel& channel = **next;
    const absl::StatusOr<Preamble> preamble = CheckFurther(arrival, channel);
    if (preamble.ok() && preamble->role == ChannelRole::kPage && preamble->index < page.size() &&
        page[preamble->index] == nullptr) {
      page[preamble->index] = channel.TakePages(arrival.options.silence);
    } else if (preamble.ok() && preamble->role == ChannelRole::kUrgent && preamble->index < urgent.size() &&
               urgent[preamble->index] == nullptr) {
      urgent[preamble->index] = channel.TakeUrgent(arrival.options.silence);
    } else {
      arrival.drops.Log(channel.peer(), preamble.ok() ? "it is no channel of this move" : preamble.status().message());
      // Strangers that come one after the other take no more time than there is.
      if (arrival.Now() >= deadline) {
        return absl::DeadlineExceededError("the channels of the move did not come in time");
      }
      continue;
    }
    --due;
  }
  arrival.link.SetChannels(std::move(page), std::move(urgent));
  FERRITE_RETURN_IF_ERROR(arrival.link.broken().reason());
  FERRITE_ASSIGN_OR_RETURN(const Digest digest, arrival.credentials.Prove(Claim::kOpened, arrival.epoch));
  return arrival.peer().Send(message::Opened{.digest = digest});
}

absl::Status Prepare(Arrival& arrival) {
  FERRITE_RETURN_IF_ERROR(arrival.peer().Expect<message::Advise>(arrival.options.patience).status());
  DestinationMachine& machine = *arrival.machine;
  // R8: nothing is locked and nothing ballooned before the end. Locked memory would be filled right here, and then no
  // page would ever be missing.
  machine.resources().InhibitBalloon();
  arrival.undo.Push([&machine](const absl::Status&) {
    machine.resources().AllowBalloon();
    return absl::OkStatus();
  });
  FERRITE_RETURN_IF_ERROR(machine.resources().SetLocked(false));
  // Before the memory is emptied: it may use some.
  FERRITE_ASSIGN_OR_RETURN(const absl::Duration load, machine.state().MeasureLoad());
  for (IncomingPart* part : arrival.parts) {
    FERRITE_RETURN_IF_ERROR(part->Prepare());
  }
  return arrival.peer().Send(message::Ready{.load = load});
}

}  // namespace ferrite::migration
