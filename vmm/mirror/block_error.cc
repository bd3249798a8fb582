#include "vmm/mirror/block_error.h"

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite {
namespace {

using Kind = migration::BlockOperation::Kind;

absl::string_view Verb(Kind kind) {
  switch (kind) {
    case Kind::kRead:
      return "read ";
    case Kind::kWrite:
      return "write ";
    case Kind::kWriteZeroes:
      return "zero ";
    case Kind::kDiscard:
      return "discard ";
    case Kind::kFlush:
      break;
  }
  return "flush ";
}

}  // namespace

std::string BlockWords(const migration::BlockOperation& operation, absl::string_view name) {
  if (operation.kind == Kind::kFlush) {
    return absl::StrCat("flush ", name);
  }
  return absl::StrCat(Verb(operation.kind), operation.bytes, " bytes at ", operation.offset, " of ", name);
}

absl::Status BlockResult(const migration::BlockOperation& operation, absl::string_view name, int error) {
  if (error == 0) {
    return absl::OkStatus();
  }
  // Without memory for the words it is no lack of room all the same.
  absl::Status status = absl::UnknownError("");
  IfThereIsMemory([&] {
    status = ErrnoStatus(error, BlockWords(operation, name));
    const bool no_room = error == ENOSPC || error == EDQUOT;
    if (absl::IsResourceExhausted(status) && !no_room) {
      status = absl::UnknownError(status.message());
    }
  });
  return status;
}

}  // namespace ferrite
