#include "vmm/move/disk_landing.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "devices/block/io_request.h"
#include "memory/guest_address.h"
#include "vmm/move/disk_part.h"

namespace ferrite {

using migration::PageRun;

namespace {

constexpr uint64_t kPagesPerUnit = kDiskUnitBytes / kPageBytes;

}  // namespace

DiskLanding::DiskLanding(std::string id, uint64_t bytes)
    : id_(std::move(id)),
      name_(absl::StrCat("disk ", id_)),
      bytes_(bytes),
      states_(DiskRegion(id_, bytes).bytes / kDiskUnitBytes),
      placer_(*this, states_) {}

void DiskLanding::Take(std::unique_ptr<ImageTarget> target) {
  target_ = std::move(target);
  if (!target_->is_zero()) {
    placer_.SetWritten();
  }
}

absl::Status DiskLanding::Check(std::span<const migration::MachineSpec::Region> theirs) const {
  if (theirs[0] == DiskRegion(id_, bytes_)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(name_, " comes with ", theirs[0].bytes, " bytes in units of ",
                                                    theirs[0].page_bytes, ", and is described with ", bytes_,
                                                    ", which here are units of ", kDiskUnitBytes));
}

absl::Status DiskLanding::Flush() {
  const absl::Status status = target_->WriteOut();
  if (status.ok()) {
    return status;
  }
  Log().error("receive: {}: {}", name_, std::string(status.message()));
  return absl::Status(status.code(), absl::StrCat(name_, ": what has come cannot be written to its image here"));
}

void DiskLanding::Abandoned() {
  if (is_over_ || target_ == nullptr) {
    return;
  }
  if (const absl::Status status = placer_.touched() ? target_->Remove() : target_->RemoveUntouched(); !status.ok()) {
    Log().warn("receive: {}: {}", name_, std::string(status.message()));
  }
  is_over_ = true;
}

DiskLanding::ImagePlacer::ImagePlacer(const DiskLanding& landing, migration::PageStates& states)
    : Placer(states, states.units() * kPagesPerUnit, kPagesPerUnit), landing_(landing), written_(states.units()) {}

absl::Status DiskLanding::ImagePlacer::Explain(const absl::Status& error) const {
  return error;  // it has its name already, where it is of the disk
}

DiskLanding::ImagePlacer::Bytes DiskLanding::ImagePlacer::BytesOf(PageRun run) const {
  const uint64_t offset = std::min(run.first * kPageBytes, landing_.bytes_);
  return {.offset = offset, .count = std::min((run.first + run.count) * kPageBytes, landing_.bytes_) - offset};
}

absl::Status DiskLanding::ImagePlacer::Failed(absl::string_view what, const Bytes& bytes, int error) const {
  return ErrnoStatus(error, absl::StrCat(landing_.name_, ": ", what, " ", bytes.count, " bytes at ", bytes.offset,
                                         " of its image at the destination"));
}

absl::Status DiskLanding::ImagePlacer::Put(PageRun run, const uint8_t* buffer) {
  const Bytes bytes = BytesOf(run);
  if (bytes.count == 0) {
    return absl::OkStatus();
  }
  const PageRun units = Units(run);
  written_.SetRange(units.first, units.count);
  touched_ = true;
  IoRequest request;
  request.kind = IoRequest::Kind::kWrite;
  request.fd = landing_.target_->fd();
  request.offset = bytes.offset;
  request.buffers = {iovec{const_cast<uint8_t*>(buffer), bytes.count}};
  request.CarryOut();
  if (request.error != 0) {
    return Failed("write", bytes, request.error);
  }
  // On its way to the disk at once, so that little is left for Flush(), for which the guest waits.
  (void)sync_file_range(request.fd, static_cast<off64_t>(bytes.offset), static_cast<off64_t>(bytes.count),
                        SYNC_FILE_RANGE_WRITE);
  return absl::OkStatus();
}

absl::Status DiskLanding::ImagePlacer::PutZero(PageRun run) {
  const PageRun units = Units(run);
  const uint64_t end_unit = units.first + units.count;
  // Others set bits meanwhile, of units that they write other pages of.
  const auto find = [&](uint64_t unit, bool written) {
    while (unit < end_unit && written_.Test(unit) != written) {
      ++unit;
    }
    return unit;
  };
  for (uint64_t first = find(units.first, true); first < end_unit;) {
    const uint64_t unit = find(first, false);
    const uint64_t first_page = std::max(first * kPagesPerUnit, run.first);
    first = find(unit, true);
    const uint64_t end_page = std::min(unit * kPagesPerUnit, run.first + run.count);
    const Bytes bytes = BytesOf({.first = first_page, .count = end_page - first_page});
    if (bytes.count == 0) {
      continue;
    }
    touched_ = true;
    IoRequest request;
    request.kind = IoRequest::Kind::kWriteZeroes;
    request.fd = landing_.target_->fd();
    request.offset = bytes.offset;
    request.bytes = bytes.count;
    request.unmap = true;
    request.CarryOut();
    if (request.error != 0) {
      return Failed("zero", bytes, request.error);
    }
  }
  SetPresent(run);
  return absl::OkStatus();
}

absl::Status DiskLanding::ImagePlacer::Publish(PageRun run, const uint8_t*) {
  Abandon(run);
  return absl::InternalError(absl::StrCat(landing_.name_, ": a part of it came behind the switchover"));
}

}  // namespace ferrite
