#include "migration/session/arrival/handshake.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/channel/crowd.h"
#include "migration/placing/placer.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/version.h"
#include "migration/session/door.h"

namespace ferrite::migration {
namespace {

absl::Status CheckRegions(const MachineSpec& spec, GuestMemory& memory) {
  const auto ours = memory.regions();
  if (spec.regions.size() != ours.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the machine has ", spec.regions.size(), " memory regions, here it would have ", ours.size()));
  }
  for (size_t i = 0; i < ours.size(); ++i) {
    const MachineSpec::Region& theirs = spec.regions[i];
    if (theirs.base != ours[i]->base().value() || theirs.bytes != ours[i]->bytes()) {
      return absl::FailedPreconditionError(absl::StrCat("memory region ", ours[i]->name(), " has ", theirs.bytes,
                                                        " bytes at ", theirs.base, " at the source, but ",
                                                        ours[i]->bytes(), " at ", ours[i]->base().value(), " here"));
    }
  }
  return absl::OkStatus();
}

// Makes the machine. An error was told to the source.
absl::Status Build(Arrival& arrival, const MachineSpec& spec) {
  absl::Status built = CatchOutOfMemory([&]() -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(arrival.machine, arrival.builder.Build(spec));
    return CheckRegions(spec, arrival.machine->memory());
  });
  if (!built.ok()) {
    (void)arrival.peer().SendBriefly(message::Refuse{.reason = std::string(built.message())});
  }
  return built;
}

absl::Status SendAccept(Arrival& arrival) {
  const auto regions = arrival.machine->memory().regions();
  auto userfault = Userfault::Create(arrival.host.open_userfault);
  absl::Status able = userfault.status();
  for (size_t i = 0; able.ok() && i < regions.size(); ++i) {
    able = Placer::CanArm(regions[i]->backing(), (*userfault)->features());
  }
  if (able.ok() && (arrival.terms.features & kFeaturePostcopy) == 0) {
    able = absl::FailedPreconditionError("the source knows no post-copy");
  }
  arrival.postcopy_possible = able.ok();
  if (able.ok()) {
    arrival.unarmed = *std::move(userfault);
  }
  message::Accept accept{.postcopy = able.ok(), .postcopy_reason = std::string(able.message())};
  for (const auto& region : regions) {
    accept.host_page_bytes.push_back(region->host_page_bytes());
  }
  // One that does not read keeps nobody else waiting.
  return arrival.peer().SendBriefly(accept);
}

// Whether the machine of `chosen` is the one that comes. If not, nothing is left of it and of the connection.
bool Accept(Arrival& arrival, Greeter::Chosen chosen) {
  arrival.terms = chosen.terms;
  arrival.link.SetPeer(std::move(chosen.peer));
  ControlPeer& peer = arrival.peer();
  const absl::Status built = Build(arrival, chosen.machine);
  absl::Status answered = built.ok() ? SendAccept(arrival) : absl::OkStatus();
  // That it can be written to does not mean that it is still there.
  answered.Update(peer.failure());
  if (built.ok() && answered.ok()) {
    peer.SetPatience(arrival.options.silence);
    peer.SetMostBytes(kMaxControlBytes);
    arrival.landscape = std::make_unique<Landscape>(arrival.machine->memory());
    arrival.waits = std::make_shared<WaitAccounts>(
        [&arrival](pid_t thread) { return arrival.machine->guest().VcpuOfThread(thread); });
    arrival.shared.TellWaits(arrival.waits);
    arrival.gate = std::make_unique<RoundGate>(arrival.terms.page_channels);
    arrival.fail_gate.emplace(arrival.link.broken(),
                              [gate = arrival.gate.get()](const absl::Status& why) { gate->Fail(why); });
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
  arrival.unarmed.reset();
  arrival.machine.reset();
  arrival.builder.Dropped();
  return false;
}

absl::Status GreetUntilAccepted(Arrival& arrival, Greeter& greeter, Lobby& lobby, const EventFd& news) {
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
    absl::StatusOr<Lobby::Arrival> next = lobby.Next(news, greeter.deadline());
    if (!next.ok()) {
      if (absl::IsCancelled(next.status()) || absl::IsDeadlineExceeded(next.status())) {
        continue;
      }
      return next.status();
    }
    const absl::StatusOr<Preamble> preamble = ReadPreamble(*next);
    if (!preamble.ok() || preamble->role != ChannelRole::kControl) {
      arrival.drops.Log(next->stream->peer(), preamble.ok() ? "it belongs to no move" : preamble.status().message());
      continue;
    }
    next->stream->SetPatience(arrival.options.silence);
    std::string origin = OriginOf(next->stream->fd());
    greeter.Admit(std::move(next->stream), std::move(origin), preamble->move_id);
  }
}

}  // namespace

absl::Status AwaitMachine(Arrival& arrival, Lobby& lobby) {
  FERRITE_ASSIGN_OR_RETURN(const EventFd news, EventFd::Create());
  const CancelToken::Callback on_cancel(arrival.shared.cancel(), [&](const absl::Status&) { news.Signal(); });
  Greeter greeter(
      {.patience = arrival.options.patience}, arrival.host, arrival.drops, [&news] { news.Signal(); },
      [&broken = arrival.link.broken()](const absl::Status& reason) { broken.Cancel(reason); });
  lobby.SetLetGo([&greeter] { return greeter.LetGo(); });
  const absl::Cleanup let_nobody_go = [&lobby] { lobby.SetLetGo(nullptr); };
  const absl::Status status = GreetUntilAccepted(arrival, greeter, lobby, news);
  // The machine is made, and its channels come next.
  lobby.KeepFree(0);
  greeter.SendAway(status.ok() ? absl::UnavailableError(kBusy)
                               : Annotate(status, "the destination waits for nobody any more"));
  FERRITE_RETURN_IF_ERROR(status);
  return arrival.link.broken().reason();
}

absl::Status AcceptChannels(Arrival& arrival, Lobby& lobby) {
  ArrivalLink::Streams page(arrival.terms.page_channels);
  ArrivalLink::Streams urgent(arrival.terms.urgent_channels);
  int due = arrival.terms.page_channels + arrival.terms.urgent_channels;
  const MonotonicTime deadline = arrival.Now() + arrival.options.patience;
  while (due > 0) {
    absl::StatusOr<Lobby::Arrival> next = lobby.Next(arrival.link.broken().event(), deadline);
    if (!next.ok()) {
      FERRITE_RETURN_IF_ERROR(arrival.peer().failure());
      return next.status();
    }
    const absl::StatusOr<Preamble> preamble = ReadPreamble(*next);
    std::unique_ptr<Stream>* place = nullptr;
    if (preamble.ok() && preamble->move_id == arrival.terms.id && preamble->role != ChannelRole::kControl) {
      ArrivalLink::Streams& channels = preamble->role == ChannelRole::kPage ? page : urgent;
      place = preamble->index < channels.size() ? &channels[preamble->index] : nullptr;
    }
    if (place == nullptr || *place != nullptr) {
      if (preamble.ok() && preamble->role == ChannelRole::kControl) {
        TurnAway(*next->stream, kBusy);
      }
      arrival.drops.Log(next->stream->peer(),
                        preamble.ok() ? "it is no channel of this move" : preamble.status().message());
      continue;
    }
    next->stream->SetPatience(arrival.options.silence);
    *place = std::move(next->stream);
    --due;
  }
  arrival.link.SetChannels(std::move(page), std::move(urgent));
  return arrival.link.broken().reason();
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
  for (size_t i = 0; i < arrival.landscape->regions(); ++i) {
    MemoryRegion& region = arrival.landscape->region(i);
    // A transparent huge page would hold pages that did not arrive.
    FERRITE_RETURN_IF_ERROR(region.SetThp(false));
    FERRITE_RETURN_IF_ERROR(region.Discard(0, region.bytes()).status());
  }
  return arrival.peer().Send(message::Ready{.load = load});
}

}  // namespace ferrite::migration
