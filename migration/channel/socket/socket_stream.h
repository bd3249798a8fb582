// A stream over a connected socket.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_SOCKET_STREAM_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_SOCKET_STREAM_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "migration/channel/socket/stream.h"

namespace ferrite::migration {

// Follows socket(7): the kernel's time limits are the patience of reads, and the steps of writes. Threads: as Stream.
class SocketStream final : public Stream {
 public:
  // `fd` is a connected stream socket, from wherever; it is made blocking, and small frames leave at once
  // (TCP_NODELAY). `peer` is for messages.
  SocketStream(Fd fd, std::string peer);

  absl::Status ReadAll(std::span<uint8_t> out) override { return Read(out, /*in_frame=*/false); }
  absl::Status ReadRest(std::span<uint8_t> out) override { return Read(out, /*in_frame=*/true); }
  using Stream::WriteAll;
  absl::Status WriteAll(std::span<iovec> buffers) override;
  size_t WriteSome(std::span<const uint8_t> bytes) override;
  absl::StatusOr<size_t> ReadSome(std::span<uint8_t> out) override;
  void Shutdown() override;
  bool shut_down() const override { return shut_down_; }
  void SetPatience(absl::Duration patience) override;
  void SetWritePatience(absl::Duration patience) override;
  bool AwaitReadable(const Clock& clock, absl::Duration limit) override;
  bool IsWritable() const override;
  // By TCP's round trips (TCP_INFO, see tcp(7)): what they take lately, beyond the shortest one of some minutes.
  absl::Duration QueueDelay() const override;
  absl::Status Join(WaitSet& set, uint32_t tag) override { return set.Add(fd_.get(), tag); }
  const std::string& peer() const override { return peer_; }
  int fd() const override { return fd_.get(); }

 private:
  absl::Status Read(std::span<uint8_t> out, bool in_frame);

  const Fd fd_;
  const std::string peer_;
  std::atomic<bool> shut_down_{false};
  std::atomic<int64_t> write_patience_{0};  // ns
};

// Two ends of one stream in this process.
absl::StatusOr<std::pair<std::unique_ptr<SocketStream>, std::unique_ptr<SocketStream>>> MakeStreamPair();

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_SOCKET_STREAM_H_
