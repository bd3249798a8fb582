// A part that leaves, of which each page looks different.
#ifndef FERRITE_TESTS_FAKES_FAKE_PART_H_
#define FERRITE_TESTS_FAKES_FAKE_PART_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "memory/guest_address.h"
#include "memory/page_bitmap.h"
#include "memory/page_range.h"
#include "migration/api/machine_spec.h"
#include "migration/sending/outgoing_part.h"

namespace ferrite::migration {

// Says what a test has put in, and sends what it holds. Threads: as OutgoingPart; the test's while nobody sends.
class FakePart final : public OutgoingPart {
 public:
  // `pages`: of each region, and of three in all; of more than 80 some look alike. `first`: the number of the
  // first one among all parts'.
  explicit FakePart(const std::vector<uint64_t>& pages, size_t first = 0) {
    for (size_t region = 0; region < pages.size(); ++region) {
      memory.emplace_back();
      for (uint64_t page = 0; page < pages[region]; ++page) {
        memory.back().insert(memory.back().end(), kPageBytes, ByteOf(first + region, page));
      }
    }
  }
  // What each byte of a page is, never 0; `region` counts all parts'.
  static uint8_t ByteOf(size_t region, uint64_t page) { return static_cast<uint8_t>(1 + (80 * region + page) % 255); }

  absl::string_view name() const override { return "fake"; }
  std::vector<MachineSpec::Region> regions() const override {
    std::vector<MachineSpec::Region> regions;
    for (const std::vector<uint8_t>& bytes : memory) {
      regions.push_back({.kind = RegionKind::kDisk, .name = "fake", .bytes = bytes.size(), .page_bytes = kPageBytes});
    }
    return regions;
  }
  bool mirrored() const override { return is_mirrored; }
  absl::Status StartTracking() override { return absl::OkStatus(); }
  void StopTracking() override {}
  absl::Status CollectDirty(size_t region, PageBitmap& pages) override {
    Add(dirty, region, pages);
    dirty.erase(std::remove_if(dirty.begin(), dirty.end(), [&](const auto& run) { return run.region == region; }),
                dirty.end());
    return absl::OkStatus();
  }
  absl::Status AddSkipped(size_t region, PageBitmap& pages) override {
    Add(skipped, region, pages);
    return absl::OkStatus();
  }
  absl::Status Send(PageSender& sender, size_t region, const PageRange& run, uint64_t pages_per_unit) override {
    return refuses.ok() ? sender.SendRun(run, memory[region], pages_per_unit).status() : refuses;
  }

  std::vector<std::vector<uint8_t>> memory;
  bool is_mirrored = false;
  std::vector<PageRange> dirty, skipped;  // by its own regions
  absl::Status refuses;                   // to send

 private:
  static void Add(const std::vector<PageRange>& runs, size_t region, PageBitmap& pages) {
    for (const PageRange& run : runs) {
      if (run.region == region) {
        pages.SetRange(run.first, run.count);
      }
    }
  }
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_FAKE_PART_H_
