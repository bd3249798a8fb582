#include "migration/session/arrival/handover.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/placing/incoming_part.h"
#include "migration/protocol/messages.h"
#include "migration/session/arrival/channels.h"
#include "migration/session/decisions.h"
#include "migration/session/phase_runner.h"

namespace ferrite::migration {
namespace {

// From here on what is missing is a fault, and served.
absl::Status Arm(Arrival& arrival) {
  arrival.armed = true;
  uint16_t first_region = 0;
  for (IncomingPart* part : arrival.parts) {
    FERRITE_RETURN_IF_ERROR(part->Arm(arrival.requests, first_region));
    first_region = static_cast<uint16_t>(first_region + part->regions());
  }
  return ServeFaults(arrival, /*asks_again=*/false);
}

// All of what is mirrored is here, and stays: behind the switchover nothing brings it.
absl::Status KeepMirrored(Arrival& arrival) {
  for (IncomingPart* part : arrival.parts) {
    uint64_t missing = 0;
    for (size_t region = 0; part->mirrored() && region < part->regions(); ++region) {
      missing += part->placer(region).states().missing();
    }
    if (missing != 0) {
      return absl::DataLossError(absl::StrCat(part->name(), ": ", missing, " units were never sent"));
    }
  }
  return FlushMirrored(arrival);
}

absl::Status Load(Arrival& arrival, std::span<const uint8_t> blob) {
  // Loading may wait for a page that never comes when the link breaks; nothing that it makes is used then.
  const CancelToken::Callback let_go(arrival.link.broken(),
                                     [&arrival](const absl::Status&) { arrival.LetGoOfWaiters(); });
  FERRITE_RETURN_IF_ERROR(arrival.link.broken().reason());
  return arrival.machine->state().LoadState(blob);
}

}  // namespace

absl::Status FlushMirrored(Arrival& arrival) {
  for (IncomingPart* part : arrival.parts) {
    if (part->mirrored()) {
      FERRITE_RETURN_IF_ERROR(part->Flush());
    }
  }
  return absl::OkStatus();
}

absl::Status ApplyPackage(Arrival& arrival, const message::Package& package) {
  if (arrival.shared.state().get() != MoveState::kDevice || arrival.loaded) {
    return absl::InvalidArgumentError("PACKAGE came before the last round, or twice");
  }
  if (package.version != kPackageVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the package has version ", package.version, ", this side knows ", kPackageVersion));
  }
  arrival.shared.postcopy = package.postcopy;
  if (package.postcopy && !arrival.postcopy_possible) {
    return absl::FailedPreconditionError("post-copy was not accepted");
  }
  if (const uint64_t doubtful = arrival.placement->doubtful().Count(); doubtful != 0) {
    return absl::DataLossError(absl::StrCat(
        doubtful, " pages came with other bytes than they were sent with, and the guest had not written them"));
  }
  FERRITE_RETURN_IF_ERROR(arrival.machine->state().CheckState(package.blob));
  // From here on the memory is the guest's alone, whatever the source does (R1).
  arrival.memory->EndOutsideWriters();
  absl::Duration flush;
  FERRITE_RETURN_IF_ERROR(Timed(arrival.host.clock, flush, [&] { return KeepMirrored(arrival); }));
  if (package.postcopy) {
    // Before loading, which may touch memory that is not here: pages flow meanwhile.
    FERRITE_RETURN_IF_ERROR(Arm(arrival));
  } else if (arrival.placement->missing() != 0) {
    return absl::DataLossError(absl::StrCat(arrival.placement->missing(), " pages were never sent"));
  }
  for (IncomingPart* part : arrival.parts) {
    FERRITE_RETURN_IF_ERROR(part->ShowPoisoned());
    if (!package.postcopy) {
      part->WithdrawFaults();
    }
  }
  arrival.gate->Open(package.postcopy ? RoundGate::Next::kLive : RoundGate::Next::kEnd);
  // Nothing may have been missing at all.
  arrival.OnPage();
  absl::Duration load;
  const absl::Status loaded = Timed(arrival.host.clock, load, [&] { return Load(arrival, package.blob); });
  load += flush;
  arrival.shared.TellLoad(load);
  FERRITE_RETURN_IF_ERROR(arrival.link.broken().reason());
  FERRITE_RETURN_IF_ERROR(loaded);
  arrival.loaded = true;
  return arrival.peer().Send(message::Loaded{.load = load});
}

absl::Status TakeOver(Arrival& arrival, const message::Grant& grant) {
  arrival.epoch = grant.epoch;
  switch (DecideOnGrant(grant.move_id == arrival.terms.id, arrival.loaded)) {
    case OnGrant::kOtherMove:
      return absl::InvalidArgumentError("GRANT is for another move");
    case OnGrant::kNotLoaded:
      return absl::InvalidArgumentError("GRANT came before the state was loaded");
    case OnGrant::kRun:
      break;
  }
  MoveStateMachine& state = arrival.shared.state();
  const MonotonicTime start = arrival.Now();
  // A cancel here and this change: one of them wins (R2).
  if (!state.Change(MoveState::kDevice, MoveState::kPostcopyActive)) {
    return absl::CancelledError("cancelled");
  }
  // An error of it says that the guest does not run.
  const absl::Status ran = CatchOutOfMemory([&]() -> absl::Status {
    FERRITE_RETURN_IF_ERROR(arrival.machine->resources().AcquireDisks());
    return arrival.machine->guest().Run();
  });
  if (!ran.ok()) {
    // The source takes the guest back when it hears this, so the guest must not run here after it is said.
    FERRITE_CHECK(state.Change(MoveState::kPostcopyActive, MoveState::kFailing));
    UntilThereIsMemory([&] { SendRefuse(arrival, ran); });
    return ran;
  }
  arrival.shared.TellRun(start, arrival.Now());
  absl::Status said = arrival.peer().Send(message::Running{.epoch = arrival.epoch});
  arrival.shared.TellHostWait(arrival.delays->Read());
  return said;
}

void SendRefuse(Arrival& arrival, const absl::Status& reason) {
  (void)arrival.peer().Send(message::Refuse{.reason = std::string(reason.message())});
}

}  // namespace ferrite::migration
