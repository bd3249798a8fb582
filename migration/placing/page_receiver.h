// What comes on one page or urgent channel: frames become pages in place.
#ifndef FERRITE_MIGRATION_PLACING_PAGE_RECEIVER_H_
#define FERRITE_MIGRATION_PLACING_PAGE_RECEIVER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/channel/page_feed.h"
#include "migration/placing/placement.h"
#include "migration/placing/placer.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// Of all channels of a move together, those of connections that are gone among them. Threads: any.
struct ReceiveFigures {
  std::atomic<uint64_t> pages{0};
  std::atomic<uint64_t> zero_pages{0};
  std::atomic<uint64_t> duplicate_pages{0};
  std::atomic<uint64_t> copied_pages{0};  // read to a buffer first
  std::atomic<uint64_t> moved_pages{0};   // that changed hands with their block: set when all is here
  // Set when blocks that came in pieces were made huge: those, and what is on huge pages then.
  std::atomic<uint64_t> compacted_blocks{0};
  std::atomic<uint64_t> huge_bytes{0};
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint64_t> faults{0};           // demand faults that went to the source
  std::atomic<uint64_t> minor_faults{0};     // on pages that had arrived
  std::atomic<uint32_t> broken_channels{0};  // page channels that ended alone
};

// Threads: one.
class PageReceiver final : private PageHandler {
 public:
  // All outlive the receiver. `showing`: how what comes is shown when live.
  PageReceiver(PageFeed& feed, Placement& placement, ReceiveFigures& figures, Showing showing)
      : feed_(feed), placement_(placement), figures_(figures), showing_(showing) {}
  // A huge page that arrived in part is nobody's again; what was gathered is shown.
  ~PageReceiver() override;
  PageReceiver(const PageReceiver&) = delete;
  PageReceiver& operator=(const PageReceiver&) = delete;

  // Takes one frame: before the switchover into what nobody runs on; `live` (after it): claims what nobody has and
  // shows it to the guest. Returns the header; kRound is for the caller to act on.
  //
  // What is outside of the regions, cuts a unit (when live), or is of a type that does not belong here is
  // INVALID_ARGUMENT; nothing was stored then.
  absl::StatusOr<PageHeader> ReceiveOne(bool live);

 private:
  absl::Status Begin(const PageHeader& header) override;
  absl::StatusOr<Target> NextTarget(const PageRange& rest) override;
  absl::Status Wrong(const PageRange& page) override;
  absl::Status Gone(const PageRange& page) override;
  absl::Status Filled(const PageRange& run) override;
  absl::StatusOr<uint64_t> Written(const PageRange& rest) override;
  absl::StatusOr<uint64_t> Zero(const PageRange& rest) override;
  absl::StatusOr<uint64_t> Lost(const PageRange& rest) override;

  absl::StatusOr<Target> NextLiveTarget(Placer& placer, PageRun rest);
  // For `pages`, at most kMaxDataPages, that cannot be read to where they belong.
  uint8_t* Buffer(uint64_t pages);
  absl::Status FilledLive(Placer& placer, PageRun run);
  // Of the claimed target some pages are gone: their units are lost, the others are shown.
  absl::Status FilledInParts(Placer& placer);
  bool IsGone(PageRun run) const;
  // Pages of a unit that is larger than a frame: claimed with its first frame, shown with its last.
  absl::StatusOr<Target> NextPart(Placer& placer, PageRun rest);
  absl::Status FilledPart(Placer& placer, PageRun run);
  // What this receiver has claimed, or was reading to its place, and did not come.
  void AbandonTarget();
  // What follows is of the block of `page`, and from there on; `whole`: it is zero, and no block has to be made for it.
  absl::Status Gather(uint16_t region, uint64_t page, bool whole);
  // What has come of the last block is shown.
  absl::Status EndGathering();

  struct OpenUnit {
    uint16_t region;
    PageRun unit;
    uint64_t next;
    bool claimed;
    bool gone = false;  // a page of it, which is therefore lost
  };

  PageFeed& feed_;
  Placement& placement_;
  ReceiveFigures& figures_;
  const Showing showing_;
  bool live_ = false;             // of the frame that comes
  std::vector<PageRange> wrong_;  // of the target that is being filled, in a round
  std::vector<uint64_t> gone_;    // likewise, at any time
  Placer* placer_ = nullptr;      // of the frame that comes; null for one of no region
  PageRun claimed_;               // the target that is being filled; of no pages where somebody else has them
  PageRun filling_;               // the same in a round, where it is read to its place
  // Where bytes go that cannot be read to where they belong; made when first needed. Of kMaxDataPages, touched only as
  // far as it is used: a vCPU may wait for the first page.
  std::unique_ptr<uint8_t[]> buffer_;
  std::optional<OpenUnit> open_;
  std::optional<PageRange> gathered_;  // the block that is gathered
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_PAGE_RECEIVER_H_
