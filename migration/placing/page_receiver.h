// The destination's end of a page or urgent channel: frames become pages in place.
#ifndef FERRITE_MIGRATION_PLACING_PAGE_RECEIVER_H_
#define FERRITE_MIGRATION_PLACING_PAGE_RECEIVER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/guest_memory.h"
#include "migration/channel/stream.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// What the destination knows of the guest's memory, region by region; shared by all channels and the fault threads.
class Landscape {
 public:
  explicit Landscape(GuestMemory& memory);

  size_t regions() const { return placers_.size(); }
  Placer& placer(size_t region) { return *placers_[region]; }
  PageStates& states(size_t region) { return *states_[region]; }
  MemoryRegion& region(size_t index) { return *memory_.regions()[index]; }
  // 4 KiB pages of all regions.
  uint64_t pages() const;
  // Host pages that are not here.
  uint64_t missing() const;

 private:
  GuestMemory& memory_;
  std::vector<std::unique_ptr<PageStates>> states_;
  std::vector<std::unique_ptr<Placer>> placers_;
};

// Of all channels of a move together, those of connections that are gone among them. Threads: any.
struct ReceiveFigures {
  std::atomic<uint64_t> pages{0};
  std::atomic<uint64_t> zero_pages{0};
  std::atomic<uint64_t> duplicate_pages{0};
  std::atomic<uint64_t> copied_pages{0};  // read to a buffer and placed with UFFDIO_COPY: never of a memfd
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint64_t> faults{0};        // demand faults that went to the source
  std::atomic<uint64_t> minor_faults{0};  // on pages that had arrived
};

// Threads: one.
class PageReceiver {
 public:
  // All outlive the receiver.
  PageReceiver(Stream& stream, Landscape& landscape, ReceiveFigures& figures);
  // A huge page that arrived in part is nobody's again.
  ~PageReceiver();
  PageReceiver(const PageReceiver&) = delete;
  PageReceiver& operator=(const PageReceiver&) = delete;

  // Reads and handles one frame: before the switchover into memory that nobody runs on; `live` (after it): claims what
  // nobody has and shows it to the guest. Returns the header; kRound is for the caller to act on.
  //
  // What is outside of memory, cuts a host page (when live), or is of a type that does not belong here is
  // INVALID_ARGUMENT; nothing was stored then.
  absl::StatusOr<PageHeader> ReceiveOne(bool live);

 private:
  absl::Status Check(const PageHeader& header, bool live) const;
  absl::Status Land(const PageHeader& header);
  absl::Status Show(const PageHeader& header);
  // A frame of no bytes, piece by piece; a stream that was shut down is the end of it.
  absl::Status ForPieces(const PageHeader& header, absl::FunctionRef<absl::Status(PageRun)> act);
  // Pages of a unit that is larger than a frame: claimed with its first frame, shown with its last.
  absl::Status ShowPart(const PageHeader& header);
  absl::Status Drop(uint64_t bytes);

  struct OpenUnit {
    uint16_t region;
    PageRun unit;
    uint64_t next;
    bool claimed;
  };

  Stream& stream_;
  Landscape& landscape_;
  ReceiveFigures& figures_;
  // Where bytes go that cannot be read into guest memory directly; made when first needed.
  std::vector<uint8_t> buffer_;
  std::optional<OpenUnit> open_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_PAGE_RECEIVER_H_
