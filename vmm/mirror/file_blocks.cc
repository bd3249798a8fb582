#include "vmm/mirror/file_blocks.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "devices/block/async_io.h"
#include "devices/block/disk_image.h"
#include "devices/block/io_request.h"
#include "vmm/mirror/block_error.h"
#include "vmm/mirror/file_extent.h"

namespace ferrite {
namespace {

using migration::BlockIo;
using migration::BlockOperation;

// A file system may name a size at which it likes to be read (st_blksize of NFS is a MiB) that has nothing to do with
// how it allocates.
constexpr uint32_t kMostFileCluster = 64 << 10;
constexpr uint32_t kMostDeviceCluster = 64 << 20;
// A smaller write is one that a guest may wait for: the page cache takes it in a tenth of a disk's time.
constexpr uint64_t kLeastDirect = 64 << 10;
// What every file system and device takes with O_DIRECT; one that wants more refuses, and is asked no more.
constexpr uint64_t kDirectAlignment = 4096;

// What a file is made of, in bytes.
struct Geometry {
  bool has_holes = false;  // lseek(2) tells where
  uint32_t block = kSectorBytes;
  uint32_t cluster = 4096;
};

absl::StatusOr<Geometry> GeometryOf(const Fd& fd, const std::string& name) {
  struct stat info = {};
  if (fstat(fd.get(), &info) != 0) {
    return ErrnoStatus(name);
  }
  Geometry geometry;
  if (S_ISREG(info.st_mode)) {
    geometry.has_holes = true;
    const auto wanted = static_cast<uint32_t>(std::clamp<int64_t>(info.st_blksize, kSectorBytes, kMostFileCluster));
    geometry.cluster = std::bit_floor(wanted);
    return geometry;
  }
  if (!S_ISBLK(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " is neither a regular file nor a block device"));
  }
  int logical = 0;
  unsigned physical = 0;
  if (ioctl(fd.get(), BLKSSZGET, &logical) != 0 || ioctl(fd.get(), BLKPBSZGET, &physical) != 0) {
    return ErrnoStatus(absl::StrCat("block size of the block device ", name));
  }
  if (logical < static_cast<int>(kSectorBytes) || !std::has_single_bit(static_cast<unsigned>(logical)) ||
      logical > static_cast<int>(kMostDeviceCluster)) {
    return absl::FailedPreconditionError(absl::StrCat("the block device ", name, " has blocks of ", logical, " bytes"));
  }
  geometry.block = static_cast<uint32_t>(logical);
  geometry.cluster = std::bit_floor(std::clamp<uint32_t>(physical, geometry.block, kMostDeviceCluster));
  return geometry;
}

class FileBlocks : public BlockIo {
 public:
  FileBlocks(std::string name, Fd fd, uint64_t bytes, const Geometry& geometry, uint32_t depth,
             std::shared_ptr<FlushRecord> flushes, Fd direct, std::unique_ptr<AsyncIo> io)
      : name_(std::move(name)),
        fd_(std::move(fd)),
        direct_(std::move(direct)),
        may_be_direct_(direct_.valid()),
        bytes_(bytes),
        geometry_(geometry),
        flushes_(std::move(flushes)),
        io_(std::move(io)) {
    for (uint32_t i = 0; i <= depth; ++i) {
      AddRequest();
    }
    io_->SetListener([this] { Finish(); });
  }

  absl::string_view name() const override { return name_; }
  uint64_t bytes() const override { return bytes_; }
  uint32_t block_bytes() const override { return geometry_.block; }
  uint32_t cluster_bytes() const override { return geometry_.cluster; }

  void Submit(BlockOperation& operation) override {
    Request& request = Take();
    request.operation = &operation;
    request.kind = KindOf(operation.kind);
    request.is_direct = may_be_direct_ && CanBeDirect(operation);
    Fill(request);
    io_->Submit(request);
  }

  void Kick() override { io_->Kick(); }

  absl::StatusOr<Extent> NextExtent(uint64_t offset) override;

 private:
  struct Request : IoRequest {
    Request() { buffers.reserve(1); }
    BlockOperation* operation = nullptr;
    bool is_direct = false;
  };

  static bool CanBeDirect(const BlockOperation& operation) {
    const auto address = reinterpret_cast<uintptr_t>(operation.data);
    return operation.kind == BlockOperation::Kind::kWrite && operation.bytes >= kLeastDirect &&
           (operation.offset | operation.bytes | address) % kDirectAlignment == 0;
  }

  void Fill(Request& request) {
    const BlockOperation& operation = *request.operation;
    request.fd = request.is_direct ? direct_.get() : fd_.get();
    request.offset = operation.offset;
    request.bytes = operation.bytes;
    request.unmap = true;
    request.buffers.clear();
    if (operation.kind == BlockOperation::Kind::kRead || operation.kind == BlockOperation::Kind::kWrite) {
      request.buffers.push_back({operation.data, operation.bytes});
    }
  }

  static IoRequest::Kind KindOf(BlockOperation::Kind kind) {
    switch (kind) {
      case BlockOperation::Kind::kRead:
        return IoRequest::Kind::kRead;
      case BlockOperation::Kind::kWrite:
        return IoRequest::Kind::kWrite;
      case BlockOperation::Kind::kWriteZeroes:
        return IoRequest::Kind::kWriteZeroes;
      case BlockOperation::Kind::kDiscard:
        return IoRequest::Kind::kDiscard;
      case BlockOperation::Kind::kFlush:
        break;
    }
    return IoRequest::Kind::kFlush;
  }

  void AddRequest() {
    free_.reserve(requests_.size() + 1);
    requests_.push_back(std::make_unique<Request>());
    free_.push_back(requests_.back().get());
  }

  // They are as many as were ever in flight together, and used again: what comes to its end takes no memory.
  Request& Take() {
    if (free_.empty()) {
      AddRequest();
    }
    Request& request = *free_.back();
    free_.pop_back();
    return request;
  }

  void Finish() {
    bool is_tried_again = false;
    while (IoRequest* over = io_->PopDone()) {
      auto& request = static_cast<Request&>(*over);
      if (request.is_direct && request.error == EINVAL) {
        // It wants another alignment, or cannot do it after all.
        may_be_direct_ = request.is_direct = false;
        Fill(request);
        io_->Submit(request);
        is_tried_again = true;
        continue;
      }
      BlockOperation& operation = *std::exchange(request.operation, nullptr);
      operation.result = BlockResult(operation, name_, request.error);
      if (operation.kind == BlockOperation::Kind::kFlush) {
        operation.result = flushes_->Note(operation.result);
      }
      free_.push_back(&request);
      operation.done(operation);
    }
    if (is_tried_again) {
      io_->Kick();
    }
  }

  const std::string name_;
  const Fd fd_;
  const Fd direct_;
  bool may_be_direct_;
  const uint64_t bytes_;
  const Geometry geometry_;
  std::vector<std::unique_ptr<Request>> requests_;
  std::vector<Request*> free_;
  const std::shared_ptr<FlushRecord> flushes_;
  const std::unique_ptr<AsyncIo> io_;
};

absl::StatusOr<BlockIo::Extent> FileBlocks::NextExtent(uint64_t offset) {
  if (!geometry_.has_holes) {
    return Extent{.bytes = bytes_ - offset, .data = true};
  }
  return NextFileExtent(fd_.get(), name_, offset, bytes_, geometry_.block);
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlockIo>> MakeFileBlocks(std::string name, Fd fd, uint64_t bytes, EventLoop& loop,
                                                        uint32_t depth, std::shared_ptr<FlushRecord> flushes,
                                                        Fd direct) {
  FERRITE_ASSIGN_OR_RETURN(const Geometry geometry, GeometryOf(fd, name));
  if (bytes == 0 || bytes % geometry.block != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " has ", bytes, " bytes, not a multiple of its block size, ", geometry.block));
  }
  // With O_NONBLOCK left on, io_uring would answer EAGAIN in place of waiting for the disk.
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
    return ErrnoStatus(name);
  }
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<AsyncIo> io, AsyncIo::Create(loop, depth));
  return std::make_unique<FileBlocks>(std::move(name), std::move(fd), bytes, geometry, depth, std::move(flushes),
                                      std::move(direct), std::move(io));
}

Fd OpenDirect(const Fd& fd) {
  return Fd(open(DescriptorPath(fd.get()).c_str(), O_WRONLY | O_DIRECT | O_NOCTTY | O_CLOEXEC));
}

}  // namespace ferrite
