#include "vmm/control/grant_record.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/clean_text.h"
#include "base/directory.h"
#include "base/fd.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr char kFile[] = "grant";
constexpr char kUnfinished[] = "grant.new";

absl::Status Sync(const Fd& directory) {
  return fsync(directory.get()) == 0 ? absl::OkStatus() : ErrnoStatus(absl::StrCat("sync ", PathAt(directory, "")));
}

std::string What(const Fd& directory) {
  return absl::StrCat("record the hand-over in ", PathAt(directory, kUnfinished));
}

std::string TextOf(const migration::MoveId& id, uint64_t epoch, absl::string_view where) {
  const std::string hex = absl::BytesToHexString({reinterpret_cast<const char*>(id.data()), id.size()});
  return absl::StrCat("move ", hex, "\nepoch ", epoch, "\nto ", where, "\n");
}

}  // namespace

absl::StatusOr<PreparedGrant> PreparedGrant::Write(const Fd& directory, const migration::MoveId& id, uint64_t epoch,
                                                   absl::string_view where) {
  std::string text = TextOf(id, epoch, where);
  (void)unlinkat(directory.get(), kUnfinished, 0);
  const auto file = OpenRegularAt(directory, kUnfinished, O_WRONLY | O_CREAT | O_EXCL, 0600);
  FERRITE_RETURN_IF_ERROR(Annotate(file.status(), "record the hand-over"));
  PreparedGrant prepared(directory, std::move(text));
  const ssize_t written = write(file->get(), prepared.text_.data(), prepared.text_.size());
  if (written != static_cast<ssize_t>(prepared.text_.size())) {
    return ErrnoStatus(written < 0 ? errno : ENOSPC, What(directory));
  }
  if (fsync(file->get()) != 0) {
    return ErrnoStatus(What(directory));
  }
  return prepared;
}

PreparedGrant::~PreparedGrant() {
  if (directory_ != nullptr) {
    (void)unlinkat(directory_->get(), kUnfinished, 0);
  }
}

bool PreparedGrant::Says(const migration::MoveId& id, uint64_t epoch, absl::string_view where) const {
  return text_ == TextOf(id, epoch, where);
}

absl::Status PreparedGrant::Commit() {
  if (renameat(directory_->get(), kUnfinished, directory_->get(), kFile) != 0) {
    return ErrnoStatus(What(*directory_));
  }
  return Sync(*std::exchange(directory_, nullptr));
}

absl::Status WriteGrantRecord(const Fd& directory, const migration::MoveId& id, uint64_t epoch,
                              absl::string_view where) {
  FERRITE_ASSIGN_OR_RETURN(PreparedGrant prepared, PreparedGrant::Write(directory, id, epoch, where));
  return prepared.Commit();
}

absl::StatusOr<GrantRecord> ReadGrantRecord(const Fd& directory) {
  const auto file = OpenRegularAt(directory, kFile, O_RDONLY);
  if (absl::IsNotFound(file.status())) {
    return absl::NotFoundError("nothing was handed over");
  }
  if (!file.ok() && !absl::IsFailedPrecondition(file.status())) {
    return file.status();
  }
  char text[4096];
  const ssize_t n = file.ok() ? read(file->get(), text, sizeof(text)) : -1;
  const std::vector<absl::string_view> lines =
      absl::StrSplit(absl::string_view(text, n > 0 ? static_cast<size_t>(n) : 0), '\n');
  GrantRecord record;
  if (lines.size() < 4 || !absl::StartsWith(lines[0], "move ") || !absl::StartsWith(lines[1], "epoch ") ||
      !absl::SimpleAtoi(absl::StripPrefix(lines[1], "epoch "), &record.epoch) || !absl::StartsWith(lines[2], "to ")) {
    return absl::DataLossError("the record of the hand-over cannot be read");
  }
  record.where = CleanText(absl::StripPrefix(lines[2], "to "));
  return record;
}

absl::Status RemoveGrantRecord(const Fd& directory) {
  if (unlinkat(directory.get(), kFile, 0) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(absl::StrCat("remove ", PathAt(directory, kFile)));
  }
  return Sync(directory);
}

}  // namespace ferrite
