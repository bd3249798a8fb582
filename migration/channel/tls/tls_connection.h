// A TLS connection, as far as it goes without waiting.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_CONNECTION_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_CONNECTION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "migration/secret/proof_bytes.h"

struct ssl_st;

namespace ferrite::migration {

struct FreeSsl {
  void operator()(ssl_st* ssl) const;
};
using SslPtr = std::unique_ptr<ssl_st, FreeSsl>;

// One whose handshake is over. Its state is one for both directions, so that a lock is around each record; nobody waits
// with it. What a direction failed with once it fails with always. What the peer said before it went away is still read
// when a write has found that it went.
//
// Errors: UNAVAILABLE when it broke, with the peer's word of why if there was one, and when the peer sends more than
// kMostMessages of TLS's own, such as KeyUpdates, without data between them (R11); OUT_OF_RANGE of a read when the peer
// has said that it ends (it may still be written to), or this side did; RESOURCE_EXHAUSTED as Stream's.
//
// Threads: one reads while another one writes; the rest from any.
class TlsConnection {
 public:
  // Plain bytes of a record.
  static constexpr size_t kMostRecordBytes = 16 << 10;
  static constexpr int kMostMessages = 32;
  struct Step {
    size_t bytes = 0;        // that were read, or written
    short events = 0;        // that it waits for on the socket, where there were none  NOLINT(google-runtime-int)
    bool in_record = false;  // some of a record is here
  };

  // `peer` is for messages.
  TlsConnection(SslPtr ssl, std::string peer);

  // Of one record, which is decrypted elsewhere and copied to `out`.
  absl::StatusOr<Step> Read(std::span<uint8_t> out);
  // `record` as one; all of it or nothing. After nothing the same bytes come again, to go on (kRest), or Abandon().
  // Another record that begins while one is to go on is UNAVAILABLE.
  enum class Part { kBegin, kRest };
  absl::StatusOr<Step> Write(std::span<const uint8_t> record, Part part);
  // A record has gone in part and its rest is not known any more: nothing is written after it.
  void Abandon();
  // Says that this side ends, as far as that goes, once. All fails from here on.
  void Close();

  // Whether Read() has something, an error or the end among it; what is waited for if not. The second one tells only of
  // what is not to be seen at the socket.
  bool HasSomething(short& events);  // NOLINT(google-runtime-int)
  bool HasSomethingAhead();
  // Stream::Bind(), by RFC 8446, 7.5.
  absl::StatusOr<Nonce> Bind(const Nonce& nonce) const;

 private:
  bool Look(short& events) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // NOLINT(google-runtime-int)
  // `call`, of reading, again behind each message of TLS's own: its result, and errno. No more than kMostMessages.
  template <typename Call>
  std::pair<int, int> Take(const Call& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of a call that has returned `result`: what it waits for, else failure_.
  absl::StatusOr<Step> AfterCall(int result, int error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool writable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !closed_ && !abandoned_ && write_failure_.ok() && (failure_.ok() || absl::IsOutOfRange(failure_));
  }

  const std::string peer_;
  mutable absl::Mutex mutex_;
  const SslPtr ssl_ ABSL_PT_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);  // of reading, or of both
  absl::Status write_failure_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  // A record has gone in part: nothing but its rest may follow.
  bool write_pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
  int messages_ ABSL_GUARDED_BY(mutex_) = 0;      // of TLS's own, since there was data
  uint64_t records_ ABSL_GUARDED_BY(mutex_) = 0;  // that went under the key there is
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_CONNECTION_H_
