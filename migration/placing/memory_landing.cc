#include "migration/placing/memory_landing.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

// Who waits is in one list for each, which the kernel goes through at each page: with 64 threads that wait, that is
// time.
constexpr size_t kDescriptors = 4;

}  // namespace

MemoryLanding::MemoryLanding(GuestMemory& memory, const Clock& clock) : memory_(memory) {
  for (const auto& region : memory.regions()) {
    states_.push_back(std::make_unique<PageStates>(region->bytes() / region->host_page_bytes()));
    placers_.push_back(MemoryPlacer::Create(*region, *states_.back(), clock));
  }
}

MemoryLanding::~MemoryLanding() { EndOutsideWriters(); }

std::vector<std::span<uint8_t>> MemoryLanding::WritableFromOutside() const {
  std::vector<std::span<uint8_t>> regions;
  for (const auto& region : memory_.regions()) {
    // Of a memfd that is mapped once, what was allocated for a writer and did not come would be there for the guest.
    regions.push_back(region->backing() == MemoryBacking::kAnonymous ? region->guest_mapping()
                                                                     : region->alias_mapping());
  }
  return regions;
}

void MemoryLanding::SetOutsideWriters(std::shared_ptr<OutsideWriters> writers) {
  writers_ = std::move(writers);
  for (size_t i = 0; i < placers_.size(); ++i) {
    placers_[i]->SetOutsideWriters(writers_.get(), i);
  }
}

void MemoryLanding::EndOutsideWriters() {
  if (writers_ != nullptr) {
    writers_->End();
  }
}

absl::Status MemoryLanding::Check(std::span<const MachineSpec::Region> theirs) const {
  const auto ours = memory_.regions();
  for (size_t i = 0; i < ours.size(); ++i) {
    if (theirs[i].kind != RegionKind::kRam) {
      return absl::FailedPreconditionError(
          absl::StrCat("region ", theirs[i].name, " is no memory at the source, but is here"));
    }
    if (theirs[i].base != ours[i]->base().value() || theirs[i].bytes != ours[i]->bytes()) {
      return absl::FailedPreconditionError(absl::StrCat("memory region ", ours[i]->name(), " has ", theirs[i].bytes,
                                                        " bytes at ", theirs[i].base, " at the source, but ",
                                                        ours[i]->bytes(), " at ", ours[i]->base().value(), " here"));
    }
  }
  return absl::OkStatus();
}

absl::Status MemoryLanding::OfferFaults(const UserfaultOpener& open_userfault) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Userfault> userfault,
                           Userfault::Create(open_userfault, Userfault::WantedFeatures(), kDescriptors));
  for (const auto& region : memory_.regions()) {
    FERRITE_RETURN_IF_ERROR(MemoryPlacer::CanArm(region->backing(), userfault->features()));
    userfault->Divide(region->guest_mapping(), region->host_page_bytes());
  }
  userfault_ = std::move(userfault);
  return absl::OkStatus();
}

void MemoryLanding::WithdrawFaults() {
  if (!armed_) {
    userfault_.reset();
  }
}

absl::Status MemoryLanding::Prepare() {
  for (const auto& region : memory_.regions()) {
    FERRITE_RETURN_IF_ERROR(region->Discard(0, region->bytes()).status());
  }
  return absl::OkStatus();
}

absl::Status MemoryLanding::ShowPoisoned() {
  for (const auto& placer : placers_) {
    FERRITE_RETURN_IF_ERROR(placer->ShowPoisoned(userfault_.get()));
  }
  return absl::OkStatus();
}

absl::Status MemoryLanding::Arm(RequestQueue&, uint16_t) {
  armed_ = true;
  for (const auto& placer : placers_) {
    FERRITE_RETURN_IF_ERROR(placer->Arm(*userfault_));
  }
  return absl::OkStatus();
}

absl::Status MemoryLanding::WakeWaiting() {
  for (const auto& region : memory_.regions()) {
    FERRITE_RETURN_IF_ERROR(userfault_->Wake(region->guest_mapping()));
  }
  return absl::OkStatus();
}

void MemoryLanding::LetGo() {
  for (const auto& region : memory_.regions()) {
    (void)userfault_->Unregister(region->guest_mapping());
  }
}

uint64_t MemoryLanding::moved_pages() const {
  uint64_t pages = 0;
  for (const auto& placer : placers_) {
    pages += placer->moved_pages();
  }
  return pages;
}

uint64_t MemoryLanding::Compact(absl::FunctionRef<bool()> stop) {
  uint64_t blocks = 0;
  for (const auto& placer : placers_) {
    blocks += placer->Compact(stop);
  }
  return blocks;
}

absl::Status MemoryLanding::Settle() {
  for (const auto& placer : placers_) {
    FERRITE_RETURN_IF_ERROR(placer->Disarm());
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
