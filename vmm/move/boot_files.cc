#include "vmm/move/boot_files.h"

#include <fcntl.h>
#include <sha2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "vmm/base/fd.h"
#include "vmm/base/status.h"

namespace ferrite {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 18;
constexpr size_t kMaxProblem = 1024;
// No guest can boot more, and no peer shall have us read for hours.
constexpr off_t kMaxBytes = off_t{4} << 30;

absl::StatusOr<uint64_t> SizeOf(const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) {
    return ErrnoStatus(path);
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": no regular file"));
  }
  if (info.st_size > kMaxBytes) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": more than ", kMaxBytes >> 30, " GiB"));
  }
  return static_cast<uint64_t>(info.st_size);
}

using Sha256Digest = std::array<uint8_t, SHA256_DIGEST_LENGTH>;

// Of the first `bytes` of the file. By libmd: OpenSSL's library would cost every monitor half a MiB of relocated pages.
absl::StatusOr<Sha256Digest> DigestOf(const std::string& path, uint64_t bytes) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.valid()) {
    return ErrnoStatus(path);
  }
  SHA2_CTX hash;
  SHA256Init(&hash);
  std::vector<uint8_t> piece(kPieceBytes);
  while (bytes > 0) {
    const ssize_t got = read(file.get(), piece.data(), std::min<uint64_t>(piece.size(), bytes));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return got < 0 ? ErrnoStatus(path) : absl::FailedPreconditionError(absl::StrCat(path, " shrinks"));
    }
    SHA256Update(&hash, piece.data(), static_cast<size_t>(got));
    bytes -= static_cast<uint64_t>(got);
  }
  Sha256Digest digest;
  SHA256Final(digest.data(), &hash);
  return digest;
}

}  // namespace

void DescribeBootFile(const std::string& path, state::BootFile::Builder out) {
  absl::StatusOr<Sha256Digest> digest;
  const absl::StatusOr<uint64_t> bytes = SizeOf(path);
  if (bytes.ok()) {
    digest = DigestOf(path, *bytes);
  }
  const absl::Status status = bytes.ok() ? digest.status() : bytes.status();
  if (!status.ok()) {
    out.setProblem(std::string(status.message()));
    return;
  }
  out.setBytes(*bytes);
  out.setSha256({digest->data(), digest->size()});
}

absl::Status CheckBootFile(absl::string_view what, const std::string& path, state::BootFile::Reader described) {
  const auto sha256 = described.getSha256();
  if (sha256.size() == 0 && described.getProblem().size() != 0) {
    const absl::string_view problem(described.getProblem().cStr(), described.getProblem().size());
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": the source cannot read its own any more: ", problem.substr(0, kMaxProblem)));
  }
  if (sha256.size() != Sha256Digest().size()) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, " ", path, ": the source does not say what is in it, so that it is not taken"));
  }
  const absl::StatusOr<uint64_t> bytes = SizeOf(path);
  FERRITE_RETURN_IF_ERROR(Annotate(bytes.status(), what));
  bool same = *bytes == described.getBytes();
  if (same) {
    const absl::StatusOr<Sha256Digest> digest = DigestOf(path, *bytes);
    FERRITE_RETURN_IF_ERROR(Annotate(digest.status(), what));
    same = std::equal(digest->begin(), digest->end(), sha256.begin());
  }
  return same ? absl::OkStatus()
              : absl::FailedPreconditionError(absl::StrCat(what, " ", path, " here is not the source's"));
}

}  // namespace ferrite
