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

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"

struct ssl_st;

namespace ferrite::migration {

struct FreeSsl {
  void operator()(ssl_st* ssl) const;
};
using SslPtr = std::unique_ptr<ssl_st, FreeSsl>;

// Over a socket whose handshake is over. The end is the other side's close_notify; a connection that ends without one
// was cut off, wherever that is: UNAVAILABLE (RFC 8446, 6.1). What is read is decrypted to where it belongs; what is
// written is gathered into whole records first, so that a page which is lost (memory/bus_fault.h) does not end one in
// its middle.
//
// Threads: as Stream. The connection's state is one for both directions, so a lock is around each record, and none is
// held while somebody waits.
class TlsStream final : public Stream {
 public:
  TlsStream(std::unique_ptr<SocketStream> socket, SslPtr ssl, std::string parties);
  // Says close_notify, as Shutdown() does, as far as that goes without waiting.
  ~TlsStream() override;

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
  absl::Status Join(WaitSet& set, uint32_t tag) override;
  const std::string& peer() const override { return socket_->peer(); }
  int fd() const override { return socket_->fd(); }
  // By RFC 8446, 7.5.
  absl::StatusOr<Nonce> Bind(const Nonce& nonce) const override;
  std::string parties() const override { return parties_; }

 private:
  // Plain bytes of a record.
  static constexpr size_t kMostRecordBytes = 16 << 10;
  struct Step {
    size_t bytes = 0;        // that were read, or written
    short events = 0;        // that it waits for on the socket, where there were none  NOLINT(google-runtime-int)
    bool in_record = false;  // some of a record is here
  };

  absl::Status Read(std::span<uint8_t> out, bool in_frame);
  // One record's at most, without waiting.
  absl::StatusOr<Step> ReadStep(std::span<uint8_t> out);
  absl::StatusOr<Step> WriteStep(std::span<const uint8_t> record);
  // Waits for those. UNAVAILABLE when the patience is over before.
  absl::Status AwaitInFrame(short events);  // NOLINT(google-runtime-int)
  // Whether ReadStep() has something, an error or the end among it; what is waited for if not.
  bool HasSomething(short& events) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // NOLINT(google-runtime-int)
  // Of a call that has returned `result`: OK when it can be made again, and then what for; else failure_.
  absl::StatusOr<Step> AfterCall(int result, int error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SayClose() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::unique_ptr<SocketStream> socket_;
  const std::string parties_;
  std::atomic<bool> shut_down_{false};
  std::atomic<int64_t> read_patience_;   // ns
  std::atomic<int64_t> write_patience_;  // ns
  mutable absl::Mutex mutex_;
  const SslPtr ssl_ ABSL_PT_GUARDED_BY(mutex_);
  // Why nothing comes or goes any more; OUT_OF_RANGE: the other side has said that it ends, and may still be written
  // to.
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  // A record has gone in part: nothing but its rest may follow.
  bool write_pending_ ABSL_GUARDED_BY(mutex_) = false;
  // Likewise, but that rest is not known any more.
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t records_ ABSL_GUARDED_BY(mutex_) = 0;  // that went under the key there is
  // Of who writes.
  std::array<uint8_t, kMostRecordBytes> record_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_STREAM_H_
