// A machine's one disk, without the machine: a real image that a test writes to as a guest would.
#ifndef FERRITE_TESTS_FAKES_FAKE_DISKS_H_
#define FERRITE_TESTS_FAKES_FAKE_DISKS_H_

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "devices/block/disk_image.h"
#include "devices/block/write_witness.h"
#include "vmm/machine/machine_disks.h"

namespace ferrite {

// The disk is called "root". Threads: any.
class FakeDisks final : public MachineDisks {
 public:
  explicit FakeDisks(std::unique_ptr<DiskImage> image) : image_(std::move(image)) {}

  // Writes as the guest: done when it returns, and the answer came. While the disk stands still it waits.
  absl::Status Write(uint64_t offset, const std::string& bytes) {
    return Change(offset, bytes.size(), [&](int fd) {
      return pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes.size());
    });
  }
  // The same with a discard, as the device does it.
  absl::Status Discard(uint64_t offset, uint64_t bytes) {
    return Change(offset, bytes, [&](int fd) {
      return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(bytes)) == 0;
    });
  }
  // How `change` of the image's descriptor is told.
  absl::Status Change(uint64_t offset, uint64_t bytes, const std::function<bool(int fd)>& change) {
    const absl::ReaderMutexLock running(&standstill_);
    uint64_t ticket = 0;
    {
      const absl::MutexLock lock(&mutex_);
      if (!change(image_->fd())) {
        return absl::ErrnoToStatus(errno, "change the image");
      }
      ticket = witness_ != nullptr && !draining_ ? witness_->Wrote(offset, bytes) : 0;
      if (witness_ != nullptr && draining_) {
        (void)witness_->Wrote(offset, bytes);
      }
      if (ticket != 0) {
        held_.insert(ticket);
        ++held_writes_;
      }
      const auto answered = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return held_.count(ticket) == 0; };
      mutex_.Await(absl::Condition(&answered));
    }
    return absl::OkStatus();
  }
  std::string path() const {
    const absl::MutexLock lock(&mutex_);
    return image_->path();
  }
  uint64_t held_writes() const {
    const absl::MutexLock lock(&mutex_);
    return held_writes_;
  }
  bool has_witness() const {
    const absl::MutexLock lock(&mutex_);
    return witness_ != nullptr;
  }

  std::vector<Disk> List() const override {
    const absl::MutexLock lock(&mutex_);
    return {{.id = "root",
             .path = image_->path(),
             .read_only = image_->read_only(),
             .bytes = image_->sectors() * kSectorBytes}};
  }
  absl::Status CheckDisk(absl::string_view id) const override {
    return id == "root" ? absl::OkStatus() : absl::NotFoundError(absl::StrCat("no disk ", id));
  }
  absl::Status WithImage(absl::string_view id,
                         const std::function<absl::Status(const DiskImage& image)>& use) override {
    FERRITE_RETURN_IF_ERROR(CheckDisk(id));
    const absl::MutexLock lock(&mutex_);
    return use(*image_);
  }
  absl::Status SetWitness(absl::string_view /*id*/, WriteWitness* witness) override {
    const absl::MutexLock lock(&mutex_);
    if (witness != nullptr && witness_ != nullptr) {
      return absl::AlreadyExistsError("there is another one");
    }
    witness_ = witness;
    if (witness == nullptr) {
      held_.clear();
    }
    return absl::OkStatus();
  }
  void AnswerHeld(absl::string_view /*id*/, uint64_t ticket) override {
    const absl::MutexLock lock(&mutex_);
    held_.erase(ticket);
  }
  absl::Status AtStandstill(absl::string_view /*id*/, const std::function<absl::Status()>& work) override {
    ++standstills;
    if (before_standstill) {
      before_standstill();
    }
    {
      const absl::MutexLock lock(&mutex_);
      draining_ = true;
      held_.clear();
    }
    const absl::MutexLock stands_still(&standstill_);
    const absl::Status status = work();
    const absl::MutexLock lock(&mutex_);
    draining_ = false;
    return status;
  }
  absl::StatusOr<std::unique_ptr<DiskImage>> ReplaceImage(absl::string_view /*id*/,
                                                          std::unique_ptr<DiskImage> image) override {
    const absl::MutexLock lock(&mutex_);
    if (!refuses_image.ok()) {
      return refuses_image;
    }
    return std::exchange(image_, std::move(image));
  }

  absl::Status refuses_image;  // of ReplaceImage()
  // When the disk is to stand still and does not yet; may write to it.
  std::function<void()> before_standstill;
  std::atomic<int> standstills = 0;

 private:
  absl::Mutex standstill_;  // shared by those who write
  mutable absl::Mutex mutex_ ABSL_ACQUIRED_AFTER(standstill_);
  std::unique_ptr<DiskImage> image_ ABSL_GUARDED_BY(mutex_);
  WriteWitness* witness_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::set<uint64_t> held_ ABSL_GUARDED_BY(mutex_);
  uint64_t held_writes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FAKE_DISKS_H_
