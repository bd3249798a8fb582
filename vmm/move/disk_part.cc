#include "vmm/move/disk_part.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "devices/block/disk_image.h"
#include "memory/guest_address.h"
#include "migration/sending/page_sender.h"
#include "vmm/mirror/file_extent.h"

namespace ferrite {
namespace {

constexpr uint64_t RegionBytes(uint64_t bytes) {
  return (bytes + kDiskUnitBytes - 1) / kDiskUnitBytes * kDiskUnitBytes;
}

}  // namespace

migration::MachineSpec::Region DiskRegion(const std::string& id, uint64_t bytes) {
  return {.kind = migration::RegionKind::kDisk, .name = id, .bytes = RegionBytes(bytes), .page_bytes = kDiskUnitBytes};
}

DiskPart::DiskPart(MachineDisks& disks, const MachineDisks::Disk& disk, const Clock& clock)
    : disks_(disks),
      clock_(clock),
      id_(disk.id),
      name_(absl::StrCat("disk ", disk.id)),
      bytes_(disk.bytes),
      read_only_(disk.read_only) {}

std::vector<migration::MachineSpec::Region> DiskPart::regions() const {
  return declined_ ? std::vector<migration::MachineSpec::Region>() : std::vector{DiskRegion(id_, bytes_)};
}

absl::Status DiskPart::StartTracking() {
  FERRITE_RETURN_IF_ERROR(disks_.WithImage(id_, [this](const DiskImage& image) {
    path_ = image.path();
    // An open of its own has a position and a read-ahead of its own.
    image_ = Fd(open(DescriptorPath(image.fd()).c_str(), O_RDONLY | O_CLOEXEC));
    return image_.valid() ? absl::OkStatus() : ErrnoStatus(absl::StrCat("open ", path_, " to copy it"));
  }));
  {
    const absl::MutexLock lock(&mutex_);
    dirty_.emplace(RegionBytes(bytes_) / kPageBytes);
    // From here on, who is told of a write takes no memory, nor does who answers it.
    held_.reserve(kMostHeld);
  }
  FERRITE_RETURN_IF_ERROR(disks_.SetWitness(id_, this));
  tracking_ = true;
  return absl::OkStatus();
}

absl::Status DiskPart::WriteOut() {
  return disks_.WithImage(id_, [](const DiskImage& image) {
    return image.read_only() || fdatasync(image.fd()) == 0 ? absl::OkStatus()
                                                           : ErrnoStatus(absl::StrCat("write out ", image.path()));
  });
}

void DiskPart::StopTracking() {
  if (!tracking_) {
    return;
  }
  (void)SetBlocking(false);
  if (const absl::Status status = disks_.SetWitness(id_, nullptr); !status.ok()) {
    Log().warn("move: {}: {}", name_, std::string(status.message()));
  }
  tracking_ = false;
  image_.Reset();
}

absl::Status DiskPart::CollectDirty(size_t /*region*/, PageBitmap& dirty) {
  const absl::MutexLock lock(&mutex_);
  dirty_->TakeInto(dirty);
  collected_ticket_ = last_ticket_;
  return absl::OkStatus();
}

absl::Status DiskPart::AddSkipped(size_t /*region*/, PageBitmap& skipped) {
  for (uint64_t offset = 0; offset < bytes_;) {
    FERRITE_ASSIGN_OR_RETURN(const auto extent,
                             NextFileExtent(image_.get(), path_, offset, bytes_, /*block=*/kPageBytes));
    const uint64_t end = offset + extent.bytes;
    if (!extent.data) {
      // The last page may end behind the disk's end, where nothing is.
      const uint64_t first = offset / kPageBytes;
      const uint64_t count = (end == bytes_ ? skipped.pages() : end / kPageBytes) - first;
      skipped.SetRange(first, count);
    }
    offset = end;
  }
  return absl::OkStatus();
}

uint64_t DiskPart::Wrote(uint64_t offset, uint64_t bytes) {
  const uint64_t first = offset / kPageBytes;
  const uint64_t end = (offset + bytes + kPageBytes - 1) / kPageBytes;
  const absl::MutexLock lock(&mutex_);
  dirty_->SetRange(first, end - first);
  if (!blocking_ || held_.size() >= kMostHeld) {
    return 0;
  }
  held_.push_back({.ticket = ++last_ticket_, .since = clock_.Now()});
  return last_ticket_;
}

bool DiskPart::SetBlocking(bool on) {
  if (read_only_) {
    return false;
  }
  uint64_t last = 0;
  {
    const absl::MutexLock lock(&mutex_);
    blocking_ = on;
    last = last_ticket_;
  }
  if (!on) {
    AnswerUpTo(last);
  }
  return true;
}

void DiskPart::Delivered() {
  uint64_t collected = 0;
  {
    const absl::MutexLock lock(&mutex_);
    collected = collected_ticket_;
  }
  AnswerUpTo(collected);
}

MonotonicTime DiskPart::LetGo(MonotonicTime since) {
  uint64_t due = 0;
  MonotonicTime next = MonotonicTime::InfiniteFuture();
  {
    const absl::MutexLock lock(&mutex_);
    for (const Held& held : held_) {
      if (held.since > since) {
        next = held.since;
        break;
      }
      due = held.ticket;
    }
  }
  AnswerUpTo(due);
  return next;
}

void DiskPart::AnswerUpTo(uint64_t ticket) {
  // By parts, of which each has room here: others answer at the same time.
  std::array<uint64_t, 64> answers;
  size_t count = answers.size();
  while (count == answers.size()) {
    count = 0;
    {
      const absl::MutexLock lock(&mutex_);
      while (count < std::min(answers.size(), held_.size()) && held_[count].ticket <= ticket) {
        answers[count] = held_[count].ticket;
        ++count;
      }
      held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(count));
    }
    for (size_t i = 0; i < count; ++i) {
      disks_.AnswerHeld(id_, answers[i]);
    }
  }
}

absl::Status DiskPart::Send(migration::PageSender& sender, size_t /*region*/, const PageRange& run,
                            uint64_t pages_per_unit) {
  return sender.SendRead(run, pages_per_unit,
                         [this](uint64_t first, std::span<uint8_t> into) { return Read(first, into); });
}

absl::Status DiskPart::Read(uint64_t first_page, std::span<uint8_t> into) const {
  const uint64_t offset = first_page * kPageBytes;
  const uint64_t there = offset < bytes_ ? std::min<uint64_t>(into.size(), bytes_ - offset) : 0;
  for (uint64_t done = 0; done < there;) {
    const ssize_t got = pread(image_.get(), into.data() + done, there - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      const std::string what = absl::StrCat(name_, ": read ", there - done, " bytes at ", offset + done, " of ", path_);
      return got == 0 ? absl::DataLossError(absl::StrCat(what, ": the image ends before")) : ErrnoStatus(what);
    }
    done += static_cast<uint64_t>(got);
  }
  std::memset(into.data() + there, 0, into.size() - there);
  return absl::OkStatus();
}

}  // namespace ferrite
