#include "migration/sending/memory_part.h"

#include "base/status.h"
#include "migration/sending/untouched.h"

namespace ferrite::migration {

std::vector<MachineSpec::Region> MemoryPart::regions() const {
  std::vector<MachineSpec::Region> regions;
  for (const auto& region : memory_.regions()) {
    regions.push_back({.kind = RegionKind::kRam,
                       .name = region->name(),
                       .base = region->base().value(),
                       .bytes = region->bytes(),
                       .page_bytes = region->host_page_bytes()});
  }
  return regions;
}

absl::Status MemoryPart::AddSkipped(size_t region, PageBitmap& skipped) {
  FERRITE_RETURN_IF_ERROR(AddUntouchedPages(*memory_.regions()[region], page_map_, skipped));
  dirty_log_.AddUnneededPages(region, skipped);
  return absl::OkStatus();
}

absl::Status MemoryPart::Send(PageSender& sender, size_t region, const PageRange& run, uint64_t pages_per_unit) {
  return sender.SendRun(run, memory_.regions()[region]->guest_mapping(), pages_per_unit);
}

}  // namespace ferrite::migration
