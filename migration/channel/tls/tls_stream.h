// A stream over TLS 1.3.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_STREAM_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_STREAM_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"
#include "migration/channel/tls/tls_connection.h"

namespace ferrite::migration {

// Over a socket whose handshake is over. The end is the other side's close_notify; a connection that ends without one
// was cut off, wherever that is: UNAVAILABLE (RFC 8446, 6.1). What is read is decrypted in the library's own
// buffer, and copied from there to where it belongs; what is written is gathered into whole records first, so that a
// page which is lost (memory/bus_fault.h) does not end one in its middle. Threads: as Stream.
class TlsStream final : public Stream {
 public:
  TlsStream(std::unique_ptr<SocketStream> socket, SslPtr ssl, std::string parties);
  // Says close_notify, as Shutdown() does, as far as that goes without waiting.
  ~TlsStream() override { connection_.Close(); }

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
  bool IsWritable() const override { return socket_->IsWritable(); }
  absl::Duration QueueDelay() const override { return socket_->QueueDelay(); }
  absl::Status Join(WaitSet& set, uint32_t tag) override;
  const std::string& peer() const override { return socket_->peer(); }
  int fd() const override { return socket_->fd(); }
  absl::StatusOr<Nonce> Bind(const Nonce& nonce) const override { return connection_.Bind(nonce); }
  std::string parties() const override { return parties_; }

 private:
  absl::Status Read(std::span<uint8_t> out, bool in_frame);
  // Waits for those. UNAVAILABLE when the patience is over before.
  absl::Status AwaitInFrame(short events);  // NOLINT(google-runtime-int)
  // Writes a whole record.
  absl::Status WriteRecord(std::span<const uint8_t> record);

  const std::unique_ptr<SocketStream> socket_;
  const std::string parties_;
  TlsConnection connection_;
  std::atomic<bool> shut_down_{false};
  std::atomic<int64_t> read_patience_;   // ns
  std::atomic<int64_t> write_patience_;  // ns
  // Of who writes.
  std::array<uint8_t, TlsConnection::kMostRecordBytes> record_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_STREAM_H_
