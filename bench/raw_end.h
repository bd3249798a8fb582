// An end of a connection as plain as can be: for the limits that a move is compared with.
#ifndef FERRITE_BENCH_RAW_END_H_
#define FERRITE_BENCH_RAW_END_H_

#include <openssl/ossl_typ.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ferrite {

// A socket that waits, or TLS over one, by the library alone. One thread.
class RawEnd {
 public:
  explicit RawEnd(int fd) : fd_(fd) {}
  // `ssl` is this side's connection, which is this one's from here on; the other end does the same meanwhile.
  static absl::StatusOr<RawEnd> ShakeHands(int fd, SSL* ssl);

  absl::Status Write(std::span<const uint8_t> head, std::span<const uint8_t> body = {});
  // All of it; UNAVAILABLE when the other end has gone.
  absl::Status Read(std::span<uint8_t> into);

 private:
  struct Free {
    void operator()(SSL* ssl) const;
  };

  int fd_;
  std::unique_ptr<SSL, Free> ssl_;  // null: plain
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_RAW_END_H_
