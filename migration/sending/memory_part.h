// The memory of a guest that leaves.
#ifndef FERRITE_MIGRATION_SENDING_MEMORY_PART_H_
#define FERRITE_MIGRATION_SENDING_MEMORY_PART_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/page_map.h"
#include "memory/guest_memory.h"
#include "migration/api/source_machine.h"
#include "migration/sending/outgoing_part.h"

namespace ferrite::migration {

// Threads: as OutgoingPart.
class MemoryPart final : public OutgoingPart {
 public:
  // Both outlive it; `page_map` is the host's.
  MemoryPart(const GuestMemory& memory, DirtyLog& dirty_log, PageMapOpener page_map)
      : memory_(memory), dirty_log_(dirty_log), page_map_(std::move(page_map)) {}

  absl::string_view name() const override { return "memory"; }
  std::vector<MachineSpec::Region> regions() const override;
  // Where its regions are, which the guest uses.
  std::vector<std::span<uint8_t>> Mappings() const;
  absl::Status StartTracking() override { return dirty_log_.StartDirtyTracking(); }
  void StopTracking() override { dirty_log_.StopDirtyTracking(); }
  absl::Status CollectDirty(size_t region, PageBitmap& dirty) override {
    return dirty_log_.CollectDirty(region, dirty);
  }
  absl::Status AddSkipped(size_t region, PageBitmap& skipped) override;
  absl::Status Send(PageSender& sender, size_t region, const PageRange& run, uint64_t pages_per_unit) override;
  std::optional<PageRange> FoundLost(const uint8_t* address) override;

 private:
  const GuestMemory& memory_;
  DirtyLog& dirty_log_;
  const PageMapOpener page_map_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MEMORY_PART_H_
