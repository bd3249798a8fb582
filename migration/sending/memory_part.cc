#include "migration/sending/memory_part.h"

#include <algorithm>

#include "base/status.h"
#include "migration/sending/untouched.h"

namespace ferrite::migration {
namespace {

// The first host page that is listed as lost and reaches beyond `page`; of no pages where there is none.
PageRange NextLost(const MemoryRegion& memory, uint16_t region, uint64_t page) {
  const std::optional<uint64_t> offset = memory.NextLost(page * kPageBytes);
  return offset.has_value() ? PageRange{.region = region,
                                        .first = *offset / kPageBytes,
                                        .count = memory.host_page_bytes() / kPageBytes}
                            : PageRange{.region = region, .first = memory.pages(), .count = 0};
}

}  // namespace

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

std::vector<std::span<uint8_t>> MemoryPart::Mappings() const {
  std::vector<std::span<uint8_t>> mappings;
  for (const auto& region : memory_.regions()) {
    mappings.push_back(region->guest_mapping());
  }
  return mappings;
}

absl::Status MemoryPart::AddSkipped(size_t region, PageBitmap& skipped) {
  const MemoryRegion& memory = *memory_.regions()[region];
  FERRITE_RETURN_IF_ERROR(AddUntouchedPages(memory, page_map_, skipped));
  for (const uint64_t offset : memory.LostPages()) {
    // One that was marked as lost here may have no page behind it. It is no zero for that.
    skipped.ClearRange(offset / kPageBytes, memory.host_page_bytes() / kPageBytes);
  }
  dirty_log_.AddUnneededPages(region, skipped);
  return absl::OkStatus();
}

absl::Status MemoryPart::Send(PageSender& sender, size_t region, const PageRange& run, uint64_t pages_per_unit) {
  const MemoryRegion& memory = *memory_.regions()[region];
  const uint64_t end = run.first + run.count;
  for (uint64_t page = run.first; page < end;) {
    const PageRange lost = NextLost(memory, run.region, page);
    const PageRange units = UnitsLostWith(lost, pages_per_unit);
    if (units.first <= page) {
      FERRITE_RETURN_IF_ERROR(sender.SendLost(units, lost));
      page = units.first + units.count;
      continue;
    }
    // What is found to be lost meanwhile is listed: it is next.
    const PageRange piece{.region = run.region, .first = page, .count = std::min(end, units.first) - page};
    FERRITE_ASSIGN_OR_RETURN(const uint64_t sent, sender.SendRun(piece, memory.guest_mapping(), pages_per_unit));
    page += sent;
  }
  return absl::OkStatus();
}

std::optional<PageRange> MemoryPart::FoundLost(const uint8_t* address) {
  const std::optional<GuestAddress> page = memory_.FindLost(reinterpret_cast<uintptr_t>(address));
  if (!page.has_value()) {
    return std::nullopt;
  }
  size_t index = 0;
  while (memory_.regions()[index].get() != memory_.Find(*page)) {
    ++index;
  }
  const MemoryRegion& region = *memory_.regions()[index];
  return PageRange{.region = static_cast<uint16_t>(index),
                   .first = (*page - region.base()) / kPageBytes,
                   .count = region.host_page_bytes() / kPageBytes};
}

}  // namespace ferrite::migration
