#include "migration/channel/tls/tls_socket_bio.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "migration/channel/tls/tls_errors.h"

namespace ferrite::migration {
namespace {

constexpr size_t kRecordHeaderBytes = 5;
// The library's own flag for a record that is no data, where the kernel does TLS (internal/bio.h).
constexpr int kKernelControlMessage = 0x1000;

// Of the next record, what came with the one before.
struct Ahead {
  std::array<uint8_t, kRecordHeaderBytes> bytes{};
  size_t begin = 0;
  size_t end = 0;
};

void FreeAhead(void* /*parent*/, void* ahead, CRYPTO_EX_DATA* /*data*/, int /*index*/, long /*argl*/,  // NOLINT
               void* /*argp*/) {
  delete static_cast<Ahead*>(ahead);
}

// The BIO's own data slot is used by the library's control function.
int AheadIndex() {
  static const int kIndex = CRYPTO_get_ex_new_index(CRYPTO_EX_INDEX_BIO, 0, nullptr, nullptr, nullptr, FreeAhead);
  return kIndex;
}

Ahead& AheadOf(BIO* bio) { return *static_cast<Ahead*>(BIO_get_ex_data(bio, AheadIndex())); }

int FdOf(BIO* bio) {
  int fd = -1;
  (void)BIO_get_fd(bio, &fd);
  return fd;
}

int Read(BIO* bio, char* out, int bytes) {
  BIO_clear_retry_flags(bio);
  if (out == nullptr || bytes <= 0) {
    return 0;
  }
  if (BIO_get_ktls_recv(bio)) {
    // Which takes its record's type from a control message.
    return BIO_meth_get_read(BIO_s_socket())(bio, out, bytes);
  }
  Ahead& ahead = AheadOf(bio);
  const auto wanted = static_cast<size_t>(bytes);
  if (ahead.begin < ahead.end) {
    const size_t taken = std::min(wanted, ahead.end - ahead.begin);
    std::memcpy(out, &ahead.bytes[ahead.begin], taken);
    ahead.begin += taken;
    return static_cast<int>(taken);
  }
  // Who reads a header alone gets its body next.
  iovec pieces[] = {{.iov_base = out, .iov_len = wanted},
                    {.iov_base = ahead.bytes.data(), .iov_len = ahead.bytes.size()}};
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = wanted > kRecordHeaderBytes ? 2 : 1;
  errno = 0;
  const ssize_t n = recvmsg(FdOf(bio), &message, MSG_DONTWAIT);
  if (n < 0 && BIO_sock_should_retry(static_cast<int>(n)) != 0) {
    BIO_set_retry_read(bio);
  }
  if (n == 0) {
    BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  }
  if (n <= 0) {
    return static_cast<int>(n);
  }
  const auto got = static_cast<size_t>(n);
  ahead.begin = 0;
  ahead.end = got - std::min(got, wanted);
  return static_cast<int>(std::min(got, wanted));
}

int Write(BIO* bio, const char* bytes, int size) {
  if (BIO_test_flags(bio, kKernelControlMessage) != 0) {
    return BIO_meth_get_write(BIO_s_socket())(bio, bytes, size);
  }
  BIO_clear_retry_flags(bio);
  errno = 0;
  const ssize_t n = send(FdOf(bio), bytes, static_cast<size_t>(size), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n < 0 && BIO_sock_should_retry(static_cast<int>(n)) != 0) {
    BIO_set_retry_write(bio);
  }
  return static_cast<int>(n);
}

// Lives as long as the process.
BIO_METHOD* Method() {
  static BIO_METHOD* const kMethod = [] {
    BIO_METHOD* const method = BIO_meth_new(BIO_TYPE_SOCKET, "ferrite socket");
    if (method != nullptr) {
      BIO_meth_set_read(method, Read);
      BIO_meth_set_write(method, Write);
      BIO_meth_set_ctrl(method, BIO_meth_get_ctrl(BIO_s_socket()));
      BIO_meth_set_create(method, BIO_meth_get_create(BIO_s_socket()));
      BIO_meth_set_destroy(method, BIO_meth_get_destroy(BIO_s_socket()));
    }
    return method;
  }();
  return kMethod;
}

}  // namespace

absl::StatusOr<bio_st*> NewTlsSocketBio(int fd) {
  std::unique_ptr<Ahead> ahead(new (std::nothrow) Ahead);
  BIO* const bio = ahead != nullptr && Method() != nullptr ? BIO_new(Method()) : nullptr;
  if (bio == nullptr || BIO_set_ex_data(bio, AheadIndex(), ahead.get()) != 1) {
    BIO_free(bio);
    return LibraryError("make a BIO", absl::StatusCode::kResourceExhausted);
  }
  (void)ahead.release();  // the BIO's
  BIO_set_fd(bio, fd, BIO_NOCLOSE);
  return bio;
}

bool HasBytes(bio_st* bio) {
  const Ahead& ahead = AheadOf(bio);
  return ahead.begin < ahead.end;
}

}  // namespace ferrite::migration
