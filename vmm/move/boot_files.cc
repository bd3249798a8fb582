#include "vmm/move/boot_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/fd.h"
#include "base/sha256.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 18;
// No guest can boot more, and no peer shall have us read for hours.
constexpr off_t kMaxBytes = off_t{4} << 30;
constexpr size_t kMostKnown = 64;

absl::StatusOr<uint64_t> SizeOf(const PinnedFile& file) {
  struct stat info = {};
  if (fstat(file.fd(), &info) != 0) {
    return ErrnoStatus(file.path());
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(file.path(), ": no regular file"));
  }
  if (info.st_size > kMaxBytes) {
    return absl::FailedPreconditionError(absl::StrCat(file.path(), ": more than ", kMaxBytes >> 30, " GiB"));
  }
  return static_cast<uint64_t>(info.st_size);
}

// The digest of the first `bytes` of the file. CANCELLED when `ended`, which may be null, becomes true.
absl::StatusOr<Sha256Digest> DigestOf(const PinnedFile& pinned, uint64_t bytes, const std::atomic<bool>* ended) {
  const Fd file = pinned.Open(O_RDONLY);
  if (!file.valid()) {
    return ErrnoStatus(pinned.path());
  }
  Sha256 hash;
  std::vector<uint8_t> piece(kPieceBytes);
  while (bytes > 0) {
    if (ended != nullptr && *ended) {
      return absl::CancelledError(absl::StrCat(pinned.path(), ": not read to its end, since this side ends"));
    }
    const ssize_t got = read(file.get(), piece.data(), std::min<uint64_t>(piece.size(), bytes));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got <= 0) {
      return got < 0 ? ErrnoStatus(pinned.path())
                     : absl::FailedPreconditionError(absl::StrCat(pinned.path(), " shrinks"));
    }
    hash.Update({piece.data(), static_cast<size_t>(got)});
    bytes -= static_cast<uint64_t>(got);
  }
  return hash.Finish();
}

absl::StatusOr<BootFile::Content> ContentOf(const PinnedFile& file, const std::atomic<bool>& ended) {
  FERRITE_ASSIGN_OR_RETURN(const uint64_t bytes, SizeOf(file));
  FERRITE_ASSIGN_OR_RETURN(const Sha256Digest digest, DigestOf(file, bytes, &ended));
  return BootFile::Content{.bytes = bytes, .sha256 = digest};
}

bool OthersMayNotWrite(const PinnedFile& file) {
  struct stat info = {};
  return fstat(file.fd(), &info) == 0 && (info.st_uid == 0 || info.st_uid == geteuid()) &&
         (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

}  // namespace

absl::StatusOr<BootFileDigests::Key> BootFileDigests::KeyOf(const PinnedFile& file) {
  struct stat info = {};
  if (fstat(file.fd(), &info) != 0) {
    return ErrnoStatus(file.path());
  }
  return Key(info.st_dev, info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec, info.st_ctim.tv_sec,
             info.st_ctim.tv_nsec);
}

absl::StatusOr<Sha256Digest> BootFileDigests::Of(const PinnedFile& file, uint64_t bytes) {
  FERRITE_ASSIGN_OR_RETURN(const Key key, KeyOf(file));
  for (const Known& known : known_) {
    if (known.key == key && std::get<2>(key) == bytes) {
      return known.digest;
    }
  }
  ++files_read_;
  FERRITE_ASSIGN_OR_RETURN(const Sha256Digest digest, DigestOf(file, bytes, &ended_));
  // What was changed while it was read is not known by that; and who may write to a file can do so, through a mapping,
  // without a change of its times.
  if (const auto after = KeyOf(file); after.ok() && *after == key && OthersMayNotWrite(file)) {
    known_.push_back({.key = key, .digest = digest});
    if (known_.size() > kMostKnown) {
      known_.pop_front();
    }
  }
  return digest;
}

void DescribeBootFile(const BootFile& file, const std::atomic<bool>& ended, state::BootFile::Builder out) {
  absl::StatusOr<BootFile::Content> content = absl::UnknownError("");
  if (file.content.has_value()) {
    content = *file.content;
  } else {
    content = ContentOf(file.file, ended);
  }
  if (!content.ok()) {
    out.setProblem(std::string(content.status().message()));
    return;
  }
  out.setBytes(content->bytes);
  out.setSha256({content->sha256.data(), content->sha256.size()});
}

absl::Status CheckDescribed(absl::string_view what, state::BootFile::Reader described) {
  const size_t digest_bytes = described.getSha256().size();
  if (digest_bytes == 0 && described.getProblem().size() != 0) {
    const std::string problem = CleanText({described.getProblem().cStr(), described.getProblem().size()});
    return absl::FailedPreconditionError(absl::StrCat(what, ": the source cannot read its own any more: ", problem));
  }
  if (digest_bytes != Sha256Digest().size()) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, ": the source does not say what is in it, so that it is not taken"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const BootFile>> CheckBootFile(absl::string_view what, PinnedFile file,
                                                              state::BootFile::Reader described, uint64_t room,
                                                              BootFileDigests& digests) {
  FERRITE_RETURN_IF_ERROR(CheckDescribed(what, described));
  const absl::StatusOr<uint64_t> bytes = SizeOf(file);
  FERRITE_RETURN_IF_ERROR(Annotate(bytes.status(), what));
  if (*bytes > room) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, " ", file.path(), " is larger than the memory of the machine that would boot it"));
  }
  BootFile::Content content{.bytes = *bytes};
  bool same = content.bytes == described.getBytes();
  if (same) {
    const absl::StatusOr<Sha256Digest> digest = digests.Of(file, content.bytes);
    FERRITE_RETURN_IF_ERROR(Annotate(digest.status(), what));
    content.sha256 = *digest;
    const auto sha256 = described.getSha256();
    same = std::equal(digest->begin(), digest->end(), sha256.begin());
  }
  if (!same) {
    return absl::FailedPreconditionError(absl::StrCat(what, " ", file.path(), " here is not the source's"));
  }
  return std::make_shared<const BootFile>(BootFile{.file = std::move(file), .content = content});
}

}  // namespace ferrite
