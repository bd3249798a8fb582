// A disk that comes with a machine, as the destination of a move has it: an image here that is written as it arrives.
#ifndef FERRITE_VMM_MOVE_DISK_LANDING_H_
#define FERRITE_VMM_MOVE_DISK_LANDING_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/pinned_file.h"
#include "memory/page_bitmap.h"
#include "migration/api/machine_spec.h"
#include "migration/placing/incoming_part.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"
#include "vmm/mirror/image_target.h"

namespace ferrite {

// The image is locked from when it is opened until the machine takes it, and beside a file stands FILE.incomplete until
// the guest is about to run here. One that goes without that is Abandoned().
// Errors name the disk alone: a peer hears them. Its host's user finds the image's path in the log.
//
// Threads: as IncomingPart and Placer say.
class DiskLanding final : public migration::IncomingPart {
 public:
  // Of the disk `id` of `bytes` bytes. Takes all the memory that it needs: nothing is made yet that would have to be
  // removed.
  DiskLanding(std::string id, uint64_t bytes);
  ~DiskLanding() override { Abandoned(); }

  // Where it comes to be, which has room for it. Once, before the rest.
  void Take(std::unique_ptr<ImageTarget> target);

  const std::string& id() const { return id_; }
  std::shared_ptr<const PinnedFile> file() const { return target_->file(); }

  // The machine takes the image next: nothing is written to it from here any more.
  void HandOver() { target_->Unlock(); }
  // The guest is about to run on it, which is whole: the mark goes.
  absl::Status Unmark() { return target_->Unmark(); }
  // The guest runs here: nothing is removed from here on.
  void Arrived() { is_over_ = true; }
  // That the mark is gone is on the disk, too. While the guest runs, on any one thread: it may take long.
  absl::Status Settled() { return target_->MarkComplete(); }

  absl::string_view name() const override { return name_; }
  size_t regions() const override { return 1; }
  migration::Placer& placer(size_t) override { return placer_; }
  absl::Status Check(std::span<const migration::MachineSpec::Region> theirs) const override;
  bool mirrored() const override { return true; }
  absl::Status OfferFaults(const UserfaultOpener&) override { return absl::OkStatus(); }
  void WithdrawFaults() override {}
  absl::Status Prepare() override { return absl::OkStatus(); }
  absl::Status Flush() override;
  void Abandoned() override;
  absl::Status Arm(migration::RequestQueue&, uint16_t) override { return absl::OkStatus(); }
  absl::Status WakeWaiting() override { return absl::OkStatus(); }
  void LetGo() override {}
  absl::Status Settle() override { return absl::OkStatus(); }

 private:
  class ImagePlacer final : public migration::Placer {
   public:
    ImagePlacer(const DiskLanding& landing, migration::PageStates& states);
    absl::Status Explain(const absl::Status& error) const override;
    absl::StatusOr<std::span<uint8_t>> FillTarget(migration::PageRun) override { return std::span<uint8_t>(); }
    // Nothing of it comes behind the switchover: these have nothing to do.
    absl::StatusOr<std::span<uint8_t>> StageTarget(migration::PageRun, migration::Showing) override {
      return std::span<uint8_t>();
    }
    absl::Status Publish(migration::PageRun run, const uint8_t* buffer) override;
    absl::StatusOr<uint64_t> PublishZero(migration::PageRun, migration::Showing) override { return 0; }
    // All of it may hold something else than zeroes.
    void SetWritten() { written_.SetRange(0, states().units()); }
    // Whether the image is any other than it was.
    bool touched() const { return touched_; }

   protected:
    absl::Status Put(migration::PageRun run, const uint8_t* buffer) override;
    absl::Status PutZero(migration::PageRun run) override;
    absl::Status Drop(migration::PageRun) override { return absl::OkStatus(); }

   private:
    struct Bytes {
      uint64_t offset = 0;
      uint64_t count = 0;  // of the disk, which ends before its region does
    };
    Bytes BytesOf(migration::PageRun run) const;
    absl::Status Failed(absl::string_view what, const Bytes& bytes, int error) const;

    const DiskLanding& landing_;
    std::atomic<bool> touched_{false};
    // Units that may hold something else than zeroes.
    PageBitmap written_;
  };

  const std::string id_;
  const std::string name_;  // "disk root"
  const uint64_t bytes_;
  std::unique_ptr<ImageTarget> target_;
  bool is_over_ = false;  // abandoned, or arrived
  migration::PageStates states_;
  ImagePlacer placer_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_DISK_LANDING_H_
