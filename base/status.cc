#include "base/status.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace ferrite {

namespace {

// What to do about it, where it is the same whatever was tried.
absl::string_view RemedyFor(int error) {
  switch (error) {
    case EMFILE:
      return "; raise the limit of open files (ulimit -n)";
    case EFBIG:
      return "; raise the limit of a file's size (ulimit -f), or use a file system that can hold it";
    default:
      return "";
  }
}

}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view what) {
  const absl::Status status = ConnectStatus(error, what);
  return absl::IsUnavailable(status) || absl::IsOutOfRange(status) ? absl::UnknownError(status.message()) : status;
}

absl::Status ErrnoStatus(absl::string_view what) { return ErrnoStatus(errno, what); }

absl::Status ConnectStatus(int error, absl::string_view what) {
  if (error == 0) {
    // What failed set none, as streams of the C++ library may. An error it is all the same.
    return absl::UnknownError(absl::StrCat(what, ": failed for no known reason"));
  }
  const absl::Status status = absl::ErrnoToStatus(error, what);
  return absl::Status(status.code(), absl::StrCat(status.message(), RemedyFor(error)));
}

absl::Status Reworded(const absl::Status& status, absl::string_view message) {
  absl::Status reworded(status.code(), message);
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& payload) { reworded.SetPayload(type, payload); });
  return reworded;
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  return status.ok() ? status : Reworded(status, absl::StrCat(context, ": ", status.message()));
}

namespace internal {

void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "ferrite: %s:%d: broken invariant: %s\n", file, line, condition);
  std::abort();
}

}  // namespace internal
}  // namespace ferrite
