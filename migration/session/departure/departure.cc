#include "migration/session/departure/departure.h"

#include <sys/random.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/sending/send_figures.h"

namespace ferrite::migration {

void DepartureLink::SetPeer(std::unique_ptr<ControlPeer> peer) {
  interrupt_peer_.reset();
  peer_ = std::move(peer);
  interrupt_peer_.emplace(broken_, [peer = peer_.get()](const absl::Status& why) { peer->Interrupt(why); });
}

void DepartureLink::SetPages(std::unique_ptr<PageSource> pages) {
  shut_pages_down_.reset();
  pages_ = std::move(pages);
  shut_pages_down_.emplace(broken_, [pages = pages_.get()](const absl::Status&) { pages->Shutdown(); });
}

void DepartureLink::HearOfBroken() {
  peer_->SetOnBroken([pages = pages_.get()](const message::Broken& broken) {
    return pages->OnBroken(broken.channel, broken.missing, broken.last);
  });
}

void DepartureLink::DropPages() {
  shut_pages_down_.reset();
  if (peer_ != nullptr) {
    peer_->SetOnBroken(nullptr);
  }
  pages_.reset();
}

void DepartureLink::Close() {
  // Their threads may cancel until they are joined.
  interrupt_peer_.reset();
  shut_pages_down_.reset();
  if (peer_ != nullptr) {
    // Each of the two may call the other one.
    UntilThereIsMemory([this] { peer_->Shutdown(absl::CancelledError("the move's connection was closed here")); });
    peer_->SetOnBroken(nullptr);
  }
  pages_.reset();
  peer_.reset();
  broken_.Renew();
}

absl::StatusOr<std::unique_ptr<Departure>> Departure::Create(const Host& host, SourceMachine& machine,
                                                             const MoveOptions& options, DepartureShared& shared) {
  FERRITE_ASSIGN_OR_RETURN(CancelToken broken, CancelToken::Create());
  for (const OutgoingPart* part : machine.further_parts()) {
    for (const MachineSpec::Region& region : part->regions()) {
      if (region.bytes % kPageBytes != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(part->name(), ": ", region.name, " has ", region.bytes, " bytes, which are no whole pages"));
      }
    }
  }
  MoveId id;
  if (getrandom(id.data(), id.size(), 0) != static_cast<ssize_t>(id.size())) {
    return ErrnoStatus("make the move's id: getrandom");
  }
  return std::make_unique<Departure>(host, machine, options, id, shared, std::move(broken));
}

Departure::Departure(const Host& host, SourceMachine& machine, const MoveOptions& options, const MoveId& id,
                     DepartureShared& shared, CancelToken broken)
    : host(host),
      machine(machine),
      options(options),
      id(id),
      shared(shared),
      memory_part(machine.memory(), machine.dirty_log(), host.page_map),
      parts(machine.further_parts()),
      link(std::move(broken)),
      turns(std::make_shared<ChannelTurns>(host.clock, static_cast<size_t>(options.channels), options.count_channels,
                                           options.max_bandwidth)) {
  for (const OutgoingPart* part : parts) {
    uint64_t bytes = 0;
    for (const MachineSpec::Region& region : part->regions()) {
      bytes += region.bytes;
    }
    if (progress.parts.size() < PartFigures::kMost) {
      progress.parts.push_back({.name = std::string(part->name()), .bytes = bytes});
    }
  }
  parts.insert(parts.begin(), &memory_part);
  NumberRegions();
  shared.figures().further = std::vector<PartSent>(parts.size() - 1);
  // Who stops them needs no memory for that.
  tracked.reserve(parts.size());
  std::vector<uint64_t> bases;
  for (const MachineSpec::Region& region : regions) {
    bases.push_back(region.base);
  }
  shared.TellBases(std::move(bases));
  EndOnCancel();
  on_abandon.emplace(shared.abandon(), [this](const absl::Status& why) { link.broken().Cancel(why); });
}

void Departure::EndOnCancel() {
  on_cancel.reset();
  on_cancel.emplace(shared.cancel(), [this](const absl::Status& why) { link.broken().Cancel(why); });
}

void Departure::NumberRegions() {
  regions.clear();
  region_is_mirrored.clear();
  mirrors = false;
  for (const OutgoingPart* part : parts) {
    const std::vector<MachineSpec::Region> its = part->regions();
    regions.insert(regions.end(), its.begin(), its.end());
    region_is_mirrored.resize(regions.size(), part->mirrored());
    mirrors = mirrors || part->mirrored();
  }
}

void Departure::Decline(absl::FunctionRef<bool(const OutgoingPart&)> is_declined) {
  for (size_t i = 1; i < parts.size(); ++i) {
    if (parts[i]->mirrored() && is_declined(*parts[i])) {
      parts[i]->Decline();
      if (i <= progress.parts.size()) {
        progress.parts[i - 1].shared = true;
      }
    }
  }
  NumberRegions();
}

void Departure::Publish(Rate rate) {
  progress.round = rounds_so_far();
  if (rate != Rate::kAsBefore) {
    rate_from_ = rate == Rate::kFromHere ? Now() : MonotonicTime::InfiniteFuture();
  }
  shared.TellProgress(progress, rate_from_);
}

absl::Status Departure::StartTracking(WhichParts which) {
  for (OutgoingPart* part : parts) {
    if (!Has(which, part->mirrored()) || part->regions().empty()) {
      continue;
    }
    if (absl::Status status = part->StartTracking(); !status.ok()) {
      StopTracking();
      return status;
    }
    tracked.push_back(part);
  }
  return absl::OkStatus();
}

void Departure::StopTracking() {
  blocking.Stop();
  while (!tracked.empty()) {
    tracked.back()->StopTracking();
    tracked.pop_back();
  }
}

bool Departure::StartBlocking() {
  for (size_t i = 1; i < parts.size(); ++i) {
    if (parts[i]->mirrored() && blocking.Add(*parts[i])) {
      if (i <= progress.parts.size()) {
        progress.parts[i - 1].write_blocking = true;
      }
    }
  }
  return !blocking.empty();
}

void Departure::TellReady() {
  for (size_t i = 0; i < progress.parts.size(); ++i) {
    if (parts[i + 1]->mirrored()) {
      progress.parts[i].ready_after = Now() - started;
    }
  }
  Publish();
}

}  // namespace ferrite::migration
