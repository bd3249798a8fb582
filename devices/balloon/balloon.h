// virtio-balloon (virtio 1.2 §5.5): memory that the guest gives back to the host while it runs.
#ifndef FERRITE_DEVICES_BALLOON_BALLOON_H_
#define FERRITE_DEVICES_BALLOON_BALLOON_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/monotonic.h"
#include "devices/balloon/balloon_inhibitor.h"
#include "devices/balloon/balloon_pages.h"
#include "devices/virtio/device.h"
#include "memory/guest_memory.h"
#include "proto/state.capnp.h"

namespace ferrite {

// Feature bits (§5.5.3).
inline constexpr uint64_t kBalloonMustTellHost = uint64_t{1} << 0;
inline constexpr uint64_t kBalloonStatisticsQueue = uint64_t{1} << 1;
inline constexpr uint64_t kBalloonDeflateOnOom = uint64_t{1} << 2;
inline constexpr uint64_t kBalloonPageReporting = uint64_t{1} << 5;

struct BalloonStatistics {
  struct Value {
    uint16_t tag;
    uint64_t value;
    bool operator==(const Value&) const = default;
  };
  // When the guest sent them; the past when they came with a loaded state.
  MonotonicTime time = MonotonicTime::InfinitePast();
  std::vector<Value> values;
};
// "free_memory" for VIRTIO_BALLOON_S_MEMFREE (§5.5.6.4); empty for a tag that is not known.
absl::string_view BalloonStatisticName(uint16_t tag);

// The host sets a target; the guest's driver puts pages into the balloon (inflates) or takes them out (deflates) until
// its size is the target. Pages in the balloon are given back to the host (MemoryRegion::Discard), in runs, and where
// the host's pages are larger, each once all of it is in the balloon. Pages that the guest reports as free (§5.5.6.7)
// are given back as well, without being in the balloon.
//
// Shares. A list of pages or a report is as long as the guest likes, and its pages are as scattered as it likes. One
// ProcessQueue() does kPass of it and leaves the rest, with the list that it is in the middle of, in the queue for the
// next: between two of them whoever waits gets the device (a pause, a register access). A list is answered once all of
// it is done, its pages given back included; until then the driver leaves them alone. So a pause or a save between two
// shares finds the list in its queue, unanswered; where the state is loaded it is taken from its start again, which
// changes nothing.
//
// Inhibition (R8). While inhibitor() holds a reason, no memory is given back and the guest is not told of a new target:
//   - SetTarget() is remembered, and told to the guest afterwards.
//   - Inflate requests are answered and the pages noted as in the balloon; those that still are in it are given back
//     afterwards. The guest cannot use them in between without deflating first.
//   - Deflate requests are done as always: they only take pages away from that work.
//   - Reported free pages are answered and not given back at all. The guest may use such a page as soon as the report
//   is
//     answered, with no further word, so giving it back later would destroy what it wrote; and keeping the answer back
//     would keep up to 128 MiB from the guest for as long as a move takes. What is lost is a chance, until it frees the
//     page once more.
//
// VIRTIO_BALLOON_F_MUST_TELL_HOST is what makes pages in the balloon the host's. A driver that did not accept it may
// use pages again before it says so: then pages are given back before the request that inflates them is answered or not
// at all, and are not kept account of (InflatedRanges() is empty).
//
// Threads: the methods above the virtio::Device part may be called from any thread. Those for a client's thread, which
// are SetTarget(), RequestStatistics() and the figures, never wait for the device's mutex.
class Balloon final : public virtio::Device {
 public:
  // What one ProcessQueue() may do: frames of lists that it notes, pages that it gives back, and the calls to the
  // kernel for that. Each is a few milliseconds of work at the most.
  struct Pass {
    uint64_t frames;
    BalloonPages::Share share;
  };
  static constexpr Pass kPass = {.frames = 32768, .share = {.pages = 16384, .calls = 512}};

  // Called when actual() changed, on the thread that changed it, with the balloon locked: it must neither block nor
  // call the balloon.
  using Listener = std::function<void(uint64_t actual_bytes)>;

  // `memory` outlives the balloon. `target_bytes` as for SetTarget(), but cut to what there is.
  Balloon(GuestMemory& memory, uint64_t target_bytes);

  // The size that the balloon shall have, rounded down to pages. INVALID_ARGUMENT when it is more than the guest has.
  absl::Status SetTarget(uint64_t bytes);
  uint64_t target() const;
  // The size that the guest's driver says it has.
  uint64_t actual() const;
  // Bytes of guest memory given back since the start, by inflation and by reports.
  uint64_t reclaimed() const { return reclaimed_.load(); }

  // Asks the guest for new statistics; statistics() has them some time later. FAILED_PRECONDITION when the guest has no
  // driver that has them.
  absl::Status RequestStatistics();
  // The last that the guest sent, if any.
  std::optional<BalloonStatistics> statistics() const;

  // Memory whose content the guest does not need: all that is in the balloon now, whether given back yet or not.
  // Sorted.
  std::vector<BalloonPages::Range> InflatedRanges() const;

  BalloonInhibitor& inhibitor() { return inhibitor_; }

  void SetListener(Listener listener);

  // virtio::Device.
  absl::string_view name() const override { return "virtio-balloon"; }
  uint32_t device_id() const override { return 5; }
  uint64_t device_features() const override;
  std::span<const uint16_t> queue_sizes() const override;
  void ReadConfig(uint64_t offset, std::span<uint8_t> out) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteConfig(uint64_t offset, std::span<const uint8_t> in) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Activate(uint64_t features) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ProcessQueue(uint16_t index) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ResetQueue(uint16_t index) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Reset() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Save(state::VirtioMmio::Builder out) const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckState(state::VirtioMmio::Reader in) const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LoadState(state::VirtioMmio::Reader in) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

 private:
  enum class Role { kInflate, kDeflate, kStatistics, kReporting, kNone };

  Role RoleOf(uint16_t index) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Each takes one chain of the queue; false when there is none, it is left there to go on with in the next pass, or
  // this pass has done enough.
  absl::StatusOr<bool> TakePages(uint16_t index, Pass& pass) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<bool> TakeStatistics(virtio::Queue& queue) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<bool> TakeReport(uint16_t index, Pass& pass) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Returns whether nothing is left that may be given back now.
  bool Reclaim(Pass& pass) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<BalloonPages::Range> InflatedRangesLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AnnounceTarget() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetActual(uint32_t pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool negotiated(uint64_t feature) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return (features_ & feature) != 0; }

  GuestMemory& memory_;
  BalloonInhibitor inhibitor_;
  Listener listener_ ABSL_GUARDED_BY(mutex_);
  bool active_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t features_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t announced_pages_ ABSL_GUARDED_BY(mutex_);  // num_pages: what the guest was told
  bool bad_page_logged_ ABSL_GUARDED_BY(mutex_) = false;
  // How many bytes of the next chain were done, by queue: of a list that is long, each ProcessQueue() does a share, and
  // leaves the chain in the queue until it has all.
  std::array<uint64_t, 5> done_bytes_ ABSL_GUARDED_BY(mutex_) = {};
  BalloonPages pages_ ABSL_GUARDED_BY(mutex_);
  std::optional<uint16_t> statistics_head_ ABSL_GUARDED_BY(mutex_);  // the buffer that the driver left with us

  // What clients ask for and are told. Those that say so are changed with the device's mutex held; none needs it to be
  // read.
  std::atomic<uint32_t> target_pages_;       // what the host wants
  std::atomic<uint32_t> actual_pages_{0};    // changed with it
  std::atomic<uint64_t> reclaimed_{0};       // changed with it
  std::atomic<bool> has_statistics_{false};  // whether the driver has them; changed with it
  std::atomic<bool> statistics_wanted_{false};
  mutable absl::Mutex statistics_mutex_ ABSL_ACQUIRED_AFTER(mutex_);  // never held over work
  std::optional<BalloonStatistics> statistics_ ABSL_GUARDED_BY(statistics_mutex_);
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BALLOON_BALLOON_H_
