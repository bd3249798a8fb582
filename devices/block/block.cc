#include "devices/block/block.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/own_memory.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr uint16_t kQueue = 0;
constexpr uint16_t kQueueSizes[] = {kBlockQueueSize};

// The header and the status take a descriptor each.
constexpr uint32_t kMaxSegments = kBlockQueueSize - 2;
constexpr uint32_t kMaxSegmentBytes = 16 << 10;
static_assert(uint64_t{kMaxSegments} * kMaxSegmentBytes <= kMaxBlockTransferBytes);

// One discard or write zeroes may take this long to be drained. Punching holes is quick; zeroes may have to be written.
constexpr uint32_t kMaxDiscardSectors = (uint32_t{1} << 30) / kSectorBytes;
constexpr uint32_t kMaxDiscardRanges = kMaxBlockRanges;
constexpr uint32_t kMaxWriteZeroesSectors = (uint32_t{16} << 20) / kSectorBytes;
constexpr uint32_t kMaxWriteZeroesRanges = 1;
static_assert(kMaxWriteZeroesRanges <= kMaxBlockRanges);
// The file has as much to do to forget this many bytes as to move one.
constexpr uint64_t kDiscardedBytesPerByte = 64;

// File systems work in pages: ask the guest to align to them.
constexpr uint8_t kPhysicalBlockExponent = 3;
constexpr uint32_t kSectorsPerPage = 8;

uint64_t FeaturesOf(const DiskImage& image) {
  const uint64_t always = kBlockFeatureSizeMax | kBlockFeatureSegMax | kBlockFeatureBlockSize | kBlockFeatureFlush |
                          kBlockFeatureTopology | kBlockFeatureConfigWriteback;
  return always | (image.read_only() ? kBlockFeatureReadOnly : kBlockFeatureDiscard | kBlockFeatureWriteZeroes);
}

absl::string_view TypeName(uint32_t type) {
  switch (type) {
    case kBlockRead:
      return "read";
    case kBlockWrite:
      return "write";
    case kBlockFlush:
      return "flush";
    case kBlockGetId:
      return "get id";
    case kBlockDiscard:
      return "discard";
    case kBlockWriteZeroes:
      return "write zeroes";
    default:
      return "request";
  }
}

// Adds the part of `bytes` that lies in [skip, skip + left) to `buffers`, and takes it off both.
void AddBuffer(std::span<const uint8_t> bytes, uint64_t& skip, uint64_t& left, std::vector<iovec>& buffers) {
  const uint64_t skipped = std::min<uint64_t>(skip, bytes.size());
  const uint64_t length = std::min<uint64_t>(left, bytes.size() - skipped);
  skip -= skipped;
  left -= length;
  if (length > 0) {
    buffers.push_back({const_cast<uint8_t*>(bytes.data() + skipped), length});
  }
}

}  // namespace

Block::Block(absl::string_view id, std::unique_ptr<DiskImage> image, std::unique_ptr<AsyncIo> io)
    : id_(id),
      name_(absl::StrCat("virtio-blk:", id)),
      features_(FeaturesOf(*image)),
      image_(std::move(image)),
      io_(std::move(io)) {
  io_->SetListener([this] {
    absl::MutexLock lock(&mutex_);
    FinishRequests();
  });
}

std::span<const uint16_t> Block::queue_sizes() const { return kQueueSizes; }

std::unique_ptr<DiskImage> Block::ReplaceImage(std::unique_ptr<DiskImage> image) {
  FERRITE_CHECK(in_flight_ == 0);
  FERRITE_CHECK(image->sectors() == image_->sectors() && image->read_only() == image_->read_only());
  return std::exchange(image_, std::move(image));
}

void Block::SetWitness(WriteWitness* witness) {
  if (witness != witness_) {
    witness_ = witness;
    AnswerAllHeld();
  }
}

void Block::AnswerHeld(uint64_t ticket) {
  const Lock lock(this);
  for (const std::unique_ptr<Request>& request : requests_) {
    const auto end = request->tickets.begin() + static_cast<ptrdiff_t>(request->ticket_count);
    const auto found = std::find(request->tickets.begin(), end, ticket);
    if (found == end) {
      continue;
    }
    *found = request->tickets[--request->ticket_count];
    if (request->ticket_count == 0 && request->held_status.has_value()) {
      Complete(*request, *request->held_status);
      TellDriver();
    }
    return;
  }
}

void Block::ReadConfig(uint64_t offset, std::span<uint8_t> out) {
  BlockConfig config;
  config.capacity = image_->sectors();
  config.size_max = kMaxSegmentBytes;
  config.seg_max = kMaxSegments;
  config.blk_size = kSectorBytes;
  config.physical_block_exp = kPhysicalBlockExponent;
  config.min_io_size = kSectorsPerPage;
  config.writeback = writeback_ ? 1 : 0;
  if (!image_->read_only()) {
    config.max_discard_sectors = kMaxDiscardSectors;
    config.max_discard_seg = kMaxDiscardRanges;
    config.discard_sector_alignment = kSectorsPerPage;
    config.max_write_zeroes_sectors = kMaxWriteZeroesSectors;
    config.max_write_zeroes_seg = kMaxWriteZeroesRanges;
    config.write_zeroes_may_unmap = 1;
  }
  CopyConfig({reinterpret_cast<const uint8_t*>(&config), sizeof(config)}, offset, out);
}

void Block::WriteConfig(uint64_t offset, std::span<const uint8_t> in) {
  constexpr uint64_t kWriteback = offsetof(BlockConfig, writeback);
  if (may_set_writeback_ && offset <= kWriteback && kWriteback - offset < in.size()) {
    writeback_ = in[kWriteback - offset] != 0;
  }
}

void Block::Activate(uint64_t features) {
  may_set_writeback_ = (features & kBlockFeatureConfigWriteback) != 0;
  // §5.2.5.2, §5.2.6.2: a driver that does not flush gets write-through.
  writeback_ = (features & kBlockFeatureFlush) != 0;
}

absl::Status Block::ProcessQueue(uint16_t index) {
  virtio::Queue& queue = transport().queue(index);
  const absl::Cleanup start = [this] {
    mutex_.AssertHeld();
    io_->Kick();
    FinishRequests();
  };
  absl::Status status;
  // What the driver adds meanwhile waits for the next call, so that the loop gets to other devices.
  for (uint16_t i = 0; i < queue.size() && status.ok() && TakesMore(index); ++i) {
    if (free_requests_.empty()) {
      requests_.push_back(std::make_unique<Request>());
      free_requests_.Push(*requests_.back());
    }
    absl::StatusOr<std::optional<virtio::Chain>> chain = queue.Pop();
    if (!chain.ok()) {
      status = chain.status();
    } else if (!chain->has_value()) {
      break;
    } else {
      status = StartRequest(**std::move(chain));
    }
  }
  return status;
}

bool Block::TakesMore(uint16_t /*index*/) const {
  return bytes_in_flight_ < kMaxBlockBytesInFlight && in_pieces_ == nullptr;
}

absl::Status Block::StartRequest(virtio::Chain chain) {
  if (chain.writable_bytes() == 0) {
    transport().queue(kQueue).Push(chain.head(), 0);
    notify_driver_ = true;
    return absl::InvalidArgumentError("a request has no writable byte for its status");
  }
  auto& request = static_cast<Request&>(*free_requests_.Pop());
  ++in_flight_;
  request.chain.emplace(std::move(chain));
  absl::Cleanup undo = [this, &request] {
    mutex_.AssertHeld();
    transport().queue(kQueue).PutBack();
    Forget(request);
  };
  const std::optional<uint8_t> status = Prepare(request);
  std::move(undo).Cancel();
  put_back_.reset();
  if (status.has_value()) {
    Complete(request, *status);
  } else {
    bytes_in_flight_ += request.work_bytes;
    io_->Submit(request);
  }
  return absl::OkStatus();
}

std::optional<uint8_t> Block::Prepare(Request& request) {
  request.fd = image_->fd();
  request.header = {};
  request.data_bytes = 0;
  request.first_byte = 0;
  request.next_byte = 0;
  request.work_bytes = 0;
  request.buffers.clear();
  request.ranges.clear();
  request.write_through = false;
  std::array<uint8_t, sizeof(BlockRequestHeader)> header;
  if (const absl::Status read = request.chain->Read(0, header); !read.ok()) {
    return Refuse(request, absl::StrCat("its header of 16 bytes: ", read.message()));
  }
  std::memcpy(&request.header, header.data(), sizeof(request.header));
  switch (request.header.type) {
    case kBlockRead:
    case kBlockWrite:
      return PrepareTransfer(request);
    case kBlockFlush:
      request.kind = IoRequest::Kind::kFlush;
      return std::nullopt;
    case kBlockGetId:
      return GetId(request);
    case kBlockDiscard:
    case kBlockWriteZeroes:
      return PrepareRanges(request);
    default:
      return kBlockStatusUnsupported;
  }
}

std::optional<uint8_t> Block::PrepareTransfer(Request& request) {
  const bool write = request.header.type == kBlockWrite;
  const virtio::Chain& chain = *request.chain;
  const uint64_t bytes =
      write ? chain.readable_bytes() - sizeof(BlockRequestHeader) : chain.writable_bytes() - sizeof(kBlockStatusOk);
  if (write && image_->read_only()) {
    return Refuse(request, "the disk is read-only");
  }
  if (bytes % kSectorBytes != 0) {
    return Refuse(request, absl::StrCat(bytes, " bytes are no number of sectors"));
  }
  if (!InCapacity(request.header.sector, bytes / kSectorBytes)) {
    return Refuse(request, absl::StrCat(bytes, " bytes end past the disk's ", image_->sectors(), " sectors"));
  }
  if (bytes == 0) {
    return kBlockStatusOk;
  }
  request.data_bytes = bytes;
  request.first_byte = request.next_byte = BytesDone(request);
  request.work_bytes = std::min(bytes, kMaxBlockTransferBytes);
  request.write_through = write && !writeback_;
  request.buffers.reserve(write ? chain.readable().size() : chain.writable().size());
  return PrepareNext(request);
}

void Block::PreparePiece(Request& request) {
  const bool write = request.header.type == kBlockWrite;
  const uint64_t bytes = std::min(request.data_bytes - request.next_byte, kMaxBlockTransferBytes);
  uint64_t skip = request.next_byte + (write ? sizeof(BlockRequestHeader) : 0);
  uint64_t left = bytes;
  request.buffers.clear();
  if (write) {
    for (const std::span<const uint8_t> segment : request.chain->readable()) {
      AddBuffer(segment, skip, left, request.buffers);
    }
  } else {
    for (const virtio::Chain::WritableSegment& segment : request.chain->writable()) {
      AddBuffer(segment.bytes, skip, left, request.buffers);
    }
  }
  request.kind = write ? IoRequest::Kind::kWrite : IoRequest::Kind::kRead;
  request.offset = request.header.sector * kSectorBytes + request.next_byte;
  request.next_byte += bytes;
  in_pieces_ = request.next_byte < request.data_bytes ? &request : nullptr;
}

std::optional<uint8_t> Block::PrepareRanges(Request& request) {
  const bool zero = request.header.type == kBlockWriteZeroes;
  const uint64_t bytes = request.chain->readable_bytes() - sizeof(BlockRequestHeader);
  const uint64_t count = bytes / sizeof(BlockRange);
  if (image_->read_only()) {
    return Refuse(request, "the disk is read-only");
  }
  if (bytes == 0 || bytes % sizeof(BlockRange) != 0 || count > (zero ? kMaxWriteZeroesRanges : kMaxDiscardRanges)) {
    return Refuse(request, absl::StrCat(bytes, " bytes are no list of ranges, or one too long"));
  }
  // Copied once, then looked at: the guest may change them at any time.
  std::vector<uint8_t> list(bytes);
  if (const absl::Status read = request.chain->Read(sizeof(BlockRequestHeader), list); !read.ok()) {
    return Refuse(request, read.message());
  }
  request.ranges.resize(count);
  std::memcpy(request.ranges.data(), list.data(), bytes);
  // All are checked before the first is carried out.
  for (const BlockRange& range : request.ranges) {
    if ((range.flags & ~(zero ? kBlockRangeUnmap : 0)) != 0) {
      return kBlockStatusUnsupported;
    }
    if (range.sectors > (zero ? kMaxWriteZeroesSectors : kMaxDiscardSectors) ||
        !InCapacity(range.sector, range.sectors)) {
      return Refuse(request, absl::StrCat("sectors ", range.sector, " and ", range.sectors,
                                          " more are past the end, or too many"));
    }
    request.work_bytes += range.sectors * kSectorBytes / (zero ? 1 : kDiscardedBytesPerByte);
  }
  std::reverse(request.ranges.begin(), request.ranges.end());
  request.write_through = !writeback_;
  return PrepareNext(request);
}

std::optional<uint8_t> Block::PrepareNext(Request& request) {
  if (request.next_byte < request.data_bytes) {
    PreparePiece(request);
    return std::nullopt;
  }
  while (!request.ranges.empty()) {
    const BlockRange range = request.ranges.back();
    request.ranges.pop_back();
    if (range.sectors > 0) {
      request.kind = request.header.type == kBlockDiscard ? IoRequest::Kind::kDiscard : IoRequest::Kind::kWriteZeroes;
      request.offset = range.sector * kSectorBytes;
      request.bytes = range.sectors * kSectorBytes;
      request.unmap = (range.flags & kBlockRangeUnmap) != 0;
      return std::nullopt;
    }
  }
  if (request.write_through) {
    request.write_through = false;
    request.kind = IoRequest::Kind::kFlush;
    return std::nullopt;
  }
  return kBlockStatusOk;
}

uint8_t Block::GetId(Request& request) {
  std::array<uint8_t, kBlockIdBytes> id = {};
  std::memcpy(id.data(), id_.data(), std::min(id_.size(), id.size()));
  if (request.chain->writable_bytes() < id.size() + sizeof(kBlockStatusOk)) {
    return Refuse(request, "the buffer is shorter than 20 bytes");
  }
  if (const absl::Status written = request.chain->Write(0, id); !written.ok()) {
    return Refuse(request, written.message());
  }
  request.data_bytes = id.size();
  return kBlockStatusOk;
}

void Block::Complete(Request& request, uint8_t status) {
  const virtio::Chain& chain = *request.chain;
  const uint64_t status_offset = chain.writable_bytes() - sizeof(status);
  // Where the host lost the page of the status nobody can read it, and the request is over all the same.
  (void)chain.Write(status_offset, {&status, sizeof(status)});
  // §2.7.8.2: that many bytes from the start were written, for certain. The status counts when nothing lies before it
  // that was not.
  const bool fills = status == kBlockStatusOk && request.header.type != kBlockWrite;
  const uint64_t data_written = fills ? request.data_bytes : 0;
  transport().queue(kQueue).Push(
      chain.head(),
      static_cast<uint32_t>(data_written == status_offset ? status_offset + sizeof(status) : data_written));
  notify_driver_ = true;
  Release(request);
}

bool Block::FindLost(const Request& request) {
  bool found = false;
  for (const iovec& buffer : request.buffers) {
    found |= transport().memory().FindLost({static_cast<const uint8_t*>(buffer.iov_base), buffer.iov_len});
  }
  return found;
}

uint64_t Block::BytesDone(const Request& request) const {
  const bool same = put_back_.has_value() && put_back_->head == request.chain->head() &&
                    put_back_->header.type == request.header.type &&
                    put_back_->header.sector == request.header.sector && put_back_->data_bytes == request.data_bytes;
  return same ? put_back_->next_byte : 0;
}

void Block::PutBack(Request& request) {
  put_back_ = {.head = request.chain->head(),
               .header = request.header,
               .data_bytes = request.data_bytes,
               .next_byte = request.next_byte};
  transport().queue(kQueue).PutBack();
  Release(request);
}

void Block::Release(Request& request) {
  if (request.header.type == kBlockRead && request.next_byte > 0) {
    // Also when it failed: a part may have landed.
    request.chain->MarkWritten(0, request.next_byte);
  }
  Forget(request);
}

void Block::Forget(Request& request) {
  if (in_pieces_ == &request) {
    in_pieces_ = nullptr;
  }
  request.chain.reset();
  request.ticket_count = 0;
  request.held_status.reset();
  free_requests_.Push(request);
  --in_flight_;
}

void Block::CompleteOrHold(Request& request, uint8_t status) {
  bytes_in_flight_ -= request.work_bytes;
  if (request.ticket_count == 0) {
    Complete(request, status);
    return;
  }
  // The next one need not wait for it: no piece of it comes any more, also where one failed.
  if (in_pieces_ == &request) {
    in_pieces_ = nullptr;
  }
  request.held_status = status;
}

void Block::TellWitness(Request& request) {
  uint64_t offset = request.offset;
  uint64_t bytes = request.bytes;
  switch (request.kind) {
    case IoRequest::Kind::kRead:
    case IoRequest::Kind::kFlush:
      return;
    case IoRequest::Kind::kWrite:
      if (in_pieces_ == &request && request.error == 0 && !draining_) {
        return;
      }
      offset = request.header.sector * kSectorBytes + request.first_byte;
      bytes = request.next_byte - request.first_byte;
      break;
    case IoRequest::Kind::kDiscard:
    case IoRequest::Kind::kWriteZeroes:
      break;
  }
  const uint64_t ticket = witness_->Wrote(offset, bytes);
  if (ticket != 0 && !draining_) {
    request.tickets[request.ticket_count++] = ticket;
  }
}

void Block::AnswerAllHeld() {
  for (const std::unique_ptr<Request>& request : requests_) {
    request->ticket_count = 0;
    if (request->held_status.has_value()) {
      Complete(*request, *request->held_status);
    }
  }
  TellDriver();
}

void Block::TellDriver() {
  if (std::exchange(notify_driver_, false)) {
    transport().NotifyUsed(kQueue);
  }
}

void Block::FinishRequests() {
  const bool was_full = !TakesMore(kQueue);
  for (bool look_again = true; look_again;) {
    look_again = false;
    bool submitted = false;
    while (IoRequest* done = io_->PopDone()) {
      auto& request = static_cast<Request&>(*done);
      if (witness_ != nullptr) {
        TellWitness(request);
      }
      if (draining_ && in_pieces_ == &request && request.error == 0) {
        bytes_in_flight_ -= request.work_bytes;
        PutBack(request);
        continue;
      }
      std::optional<uint8_t> status = kBlockStatusIoError;
      if (request.error == 0) {
        status = PrepareNext(request);
      } else {
        IfThereIsMemory([&] {
          mutex_.AssertHeld();
          const bool lost = request.error == EFAULT && FindLost(request);
          Refuse(request,
                 absl::StrCat(ErrnoStatus(request.error, image_->path()).message(),
                              lost ? "; the host lost a page of the guest's memory" : OwnMemoryWords(request.error)));
        });
      }
      if (status.has_value()) {
        CompleteOrHold(request, *status);
      } else {
        io_->Submit(request);
        submitted = true;
        // Not for a piece, of which there may be a thousand: the listener is called when it is done.
        look_again |= request.kind != IoRequest::Kind::kRead && request.kind != IoRequest::Kind::kWrite;
      }
    }
    if (submitted) {
      io_->Kick();
    }
  }
  TellDriver();
  if (was_full && TakesMore(kQueue)) {
    transport().RingDoorbell(kQueue);
  }
}

void Block::Drain() {
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return in_flight_ == 0; };
  draining_ = true;
  AnswerAllHeld();
  mutex_.Await(absl::Condition(&idle));
  draining_ = false;
}

void Block::Reset() {
  may_set_writeback_ = false;
  writeback_ = true;
  put_back_.reset();
}

void Block::Save(state::VirtioMmio::Builder out) const {
  auto block = out.initBlock();
  block.setCapacitySectors(image_->sectors());
  block.setWriteback(writeback_);
}

absl::Status Block::CheckState(state::VirtioMmio::Reader in) const {
  if (!in.isBlock()) {
    return absl::InvalidArgumentError("the state is not that of a block device");
  }
  if (const uint64_t sectors = in.getBlock().getCapacitySectors(); sectors != image_->sectors()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the state is of a disk of ", sectors, " sectors, and this one has ", image_->sectors()));
  }
  return absl::OkStatus();
}

void Block::LoadState(state::VirtioMmio::Reader in) { writeback_ = in.getBlock().getWriteback(); }

bool Block::InCapacity(uint64_t sector, uint64_t sectors) const {
  return sector <= image_->sectors() && sectors <= image_->sectors() - sector;
}

uint8_t Block::Refuse(const Request& request, absl::string_view why) {
  const std::optional<uint64_t> not_logged = log_backoff_.Count(MonotonicTime::Now());
  if (!not_logged.has_value()) {
    return kBlockStatusIoError;
  }
  const std::string before = *not_logged == 0 ? "" : absl::StrCat(" (and ", *not_logged, " failures before it)");
  Log().warn("{}: {} at sector {} failed: {}{}", name_, std::string(TypeName(request.header.type)),
             request.header.sector, std::string(why), before);
  return kBlockStatusIoError;
}

}  // namespace ferrite
