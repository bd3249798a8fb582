// What a source keeps of a machine that it handed over (docs/move.md): who may run it from here on.
#ifndef FERRITE_VMM_CONTROL_GRANT_RECORD_H_
#define FERRITE_VMM_CONTROL_GRANT_RECORD_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "migration/api/move_id.h"

namespace ferrite {

struct GrantRecord {
  uint64_t epoch = 0;
  std::string where;  // the destination's address
};

// A record that is on the disk, whole, but does not count yet: `grant.new`, which goes with this object. Move-only.
class PreparedGrant {
 public:
  // `directory` (opened for reading) outlives it. When the disk is full there is nothing.
  static absl::StatusOr<PreparedGrant> Write(const Fd& directory, const migration::MoveId& id, uint64_t epoch,
                                             absl::string_view where);
  PreparedGrant(PreparedGrant&& other) noexcept
      : directory_(std::exchange(other.directory_, nullptr)), text_(std::move(other.text_)) {}
  PreparedGrant& operator=(PreparedGrant&&) = delete;
  ~PreparedGrant();

  // Whether it says this.
  bool Says(const migration::MoveId& id, uint64_t epoch, absl::string_view where) const;
  // OK: it counts, and is on the disk as `grant`. Once.
  absl::Status Commit();

 private:
  PreparedGrant(const Fd& directory, std::string text) : directory_(&directory), text_(std::move(text)) {}

  const Fd* directory_;  // null: there is no file any more
  std::string text_;
};

// `grant` in `directory` (opened for reading): three lines, "move HEX", "epoch N", "to ADDRESS". When Write returned OK
// the record is on the disk, whole; when not (a full disk), there is none. Nothing that has one of its names already is
// written to, or followed.
absl::Status WriteGrantRecord(const Fd& directory, const migration::MoveId& id, uint64_t epoch,
                              absl::string_view where);
// NOT_FOUND when there is none; DATA_LOSS when there is one that is not as Write leaves it; other errors
// are those of opening it. Follows no symbolic link.
absl::StatusOr<GrantRecord> ReadGrantRecord(const Fd& directory);
// None is OK.
absl::Status RemoveGrantRecord(const Fd& directory);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_GRANT_RECORD_H_
