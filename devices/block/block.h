// The virtio block device (virtio 1.2 §5.2) over a disk image.
#ifndef FERRITE_DEVICES_BLOCK_BLOCK_H_
#define FERRITE_DEVICES_BLOCK_BLOCK_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/log_backoff.h"
#include "devices/block/async_io.h"
#include "devices/block/block_protocol.h"
#include "devices/block/disk_image.h"
#include "devices/block/io_request.h"
#include "devices/block/write_witness.h"
#include "devices/virtio/device.h"
#include "devices/virtio/queue.h"
#include "proto/state.capnp.h"

namespace ferrite {

// The queue's size, and so the most requests in flight: the depth for AsyncIo::Create().
inline constexpr uint16_t kBlockQueueSize = 256;

// A pause waits for what is in flight, so that is limited. A read or write moves this much at a time. A driver that
// keeps to size_max and seg_max never asks for more, but only one that accepted those features has to (§5.2.5).
inline constexpr uint64_t kMaxBlockTransferBytes = uint64_t{4} << 20;
// No request is taken from the queue while the file has this much to do: at most one request more is in flight.
inline constexpr uint64_t kMaxBlockBytesInFlight = uint64_t{16} << 20;
// Of one discard: max_discard_seg.
inline constexpr uint32_t kMaxBlockRanges = 16;

// Data moves between the file and the guest's memory without a copy, several requests at a time and done in any order.
// In write-through (the driver has not negotiated FLUSH, or turned writeback off) a write is on the disk before it is
// completed.
//
// A request that breaks the rules, or that the file refuses, ends with IOERR or UNSUPP in its status byte (§5.2.6.2)
// and a line in the log, now and then when there are many (LogBackoff). One without a byte for the status cannot be
// answered: the device needs a reset then.
//
// A read or write of more than kMaxBlockTransferBytes is done in pieces of that size, one after the other, and is one
// request for the driver all the same. No other is taken meanwhile; so a pause, which waits for the piece that is in
// flight, can put the request back into the queue. Afterwards it goes on from there; only where a state was loaded,
// which does not say how far it was, it is done from its start.
//
// Requests beyond kMaxBlockBytesInFlight wait in the queue, also over a pause and a save. So does one for which there
// is no memory here: what a request takes it has before it is started, and one that is started comes to its end.
//
// A WriteWitness is told of each range of a discard or write zeroes once the file is done with it, and of a write once
// the file is done with its last piece, or with the one that failed; when the request is put back, of the pieces up to
// there. In write-through that is before the flush: to have the range on the witness' side and on the disk takes as
// long as the slower of both. Where it gave tickets, the request is answered when the file's work is over and all of
// them were, by AnswerHeld(). A request that waits for nothing but tickets is one of the queue's in flight, but counts
// no more for kMaxBlockBytesInFlight. Reads and flushes wait for no ticket, nor does what was refused and never begun.
// The witness stays over a pause, a save and a reset, and Drain() depends on it for nothing (see there).
//
// Threads: as virtio::Device says; the image belongs to the device's mutex and is handed over (ReleaseFiles(),
// AcquireFiles()) or replaced while quiesced.
class Block final : public virtio::Device {
 public:
  // `id` names the device ("virtio-blk:ID") and is what the guest reads as its serial number, cut at 20 bytes. `image`
  // is held or not; `io` works on the loop of the transport.
  Block(absl::string_view id, std::unique_ptr<DiskImage> image, std::unique_ptr<AsyncIo> io);
  ~Block() override = default;

  const DiskImage& image() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return *image_; }
  // The device goes on with `image`, which has the size of the one before and is read-only if that was, and returns
  // that one as it is. Drained before.
  std::unique_ptr<DiskImage> ReplaceImage(std::unique_ptr<DiskImage> image) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // From here on `witness` is told and nobody else; null: nobody. It is not owned and outlives that. What was held for
  // another one is answered, and its tickets are not to be answered any more.
  void SetWitness(WriteWitness* witness) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  WriteWitness* witness() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return witness_; }
  // Whoever waits for `ticket` does so no more; nobody may. Any thread, without a lock that WriteWitness::Wrote()
  // takes: the request is answered on it.
  void AnswerHeld(uint64_t ticket) ABSL_LOCKS_EXCLUDED(mutex_);

  absl::string_view name() const override { return name_; }
  uint32_t device_id() const override { return kBlockDeviceId; }
  uint64_t device_features() const override { return features_; }
  std::span<const uint16_t> queue_sizes() const override;
  void ReadConfig(uint64_t offset, std::span<uint8_t> out) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteConfig(uint64_t offset, std::span<const uint8_t> in) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Activate(uint64_t features) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ProcessQueue(uint16_t index) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakesMore(uint16_t index) const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Answers what is held, and tickets that the witness gives meanwhile are dropped: it is told all the same. So a
  // pause, a reset and a move wait for the file only.
  void Drain() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReleaseFiles() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return image_->Release(); }
  absl::Status AcquireFiles() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return image_->Acquire(); }
  void Reset() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Save(state::VirtioMmio::Builder out) const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckState(state::VirtioMmio::Reader in) const override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LoadState(state::VirtioMmio::Reader in) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

 private:
  struct Request final : IoRequest {
    std::optional<virtio::Chain> chain;
    BlockRequestHeader header;
    uint64_t data_bytes = 0;         // of a transfer or of the id
    uint64_t first_byte = 0;         // of a transfer: where it was begun, after it was put back
    uint64_t next_byte = 0;          // of a transfer: where its next piece begins
    uint64_t work_bytes = 0;         // its part of bytes_in_flight_
    std::vector<BlockRange> ranges;  // still to discard or to zero, the next one last
    bool write_through = false;      // still to be followed by a flush
    // The witness' that are not answered: at most one for a transfer or a range. None while the request is free.
    std::array<uint64_t, kMaxBlockRanges> tickets = {};
    size_t ticket_count = 0;
    std::optional<uint8_t> held_status;  // what it will be answered with, when the file is done with it
  };

  // How far a transfer came that is in the queue again.
  struct Progress {
    uint16_t head;
    BlockRequestHeader header;
    uint64_t data_bytes;
    uint64_t next_byte;
  };

  absl::Status StartRequest(virtio::Chain chain) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // These return the request's status when it is over already, and nothing when it is ready to be submitted.
  std::optional<uint8_t> Prepare(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<uint8_t> PrepareTransfer(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<uint8_t> PrepareRanges(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // These and what follows a request that was submitted take no memory.
  void PreparePiece(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<uint8_t> PrepareNext(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint8_t GetId(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Complete(Request& request, uint8_t status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The file is done with the request: it is answered, or held.
  void CompleteOrHold(Request& request, uint8_t status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Tells the witness, which there is, of the operation that is over now where it wrote.
  void TellWitness(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // All tickets are answered.
  void AnswerAllHeld() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Interrupts the driver where something was pushed.
  void TellDriver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether a page that the host lost is why the transfer in flight failed.
  bool FindLost(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // How far `request` came already, a transfer that was taken from the queue just now.
  uint64_t BytesDone(const Request& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Puts a transfer back into the queue, no piece of which is in flight.
  void PutBack(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Counts what a request had written into the guest's memory, and forgets it.
  void Release(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Completes what the file is done with, takes requests of several steps further, tells the driver, and looks for more
  // in the queue when there is room again. Throws nothing.
  void FinishRequests() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  bool InCapacity(uint64_t sector, uint64_t sectors) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Logs why the request fails and returns IOERR.
  uint8_t Refuse(const Request& request, absl::string_view why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string id_;
  const std::string name_;
  const uint64_t features_;
  std::unique_ptr<DiskImage> image_ ABSL_GUARDED_BY(mutex_);
  WriteWitness* witness_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool may_set_writeback_ ABSL_GUARDED_BY(mutex_) = false;
  bool writeback_ ABSL_GUARDED_BY(mutex_) = true;
  std::vector<std::unique_ptr<Request>> requests_ ABSL_GUARDED_BY(mutex_);
  IoRequestQueue free_requests_ ABSL_GUARDED_BY(mutex_);
  uint32_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t bytes_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  // The request that has more pieces to come than the one in flight, and was taken from the queue last.
  const Request* in_pieces_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // Of what was put back, until the next request is taken: that one, unless the driver changed it meanwhile.
  std::optional<Progress> put_back_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool notify_driver_ ABSL_GUARDED_BY(mutex_) = false;
  LogBackoff log_backoff_ ABSL_GUARDED_BY(mutex_);
  // Destroyed first: it calls back.
  const std::unique_ptr<AsyncIo> io_;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_BLOCK_H_
