// The file that says that the image beside it is not whole.
#ifndef FERRITE_VMM_MIRROR_INCOMPLETE_MARK_H_
#define FERRITE_VMM_MIRROR_INCOMPLETE_MARK_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"

namespace ferrite {

// An empty file NAME.incomplete in the directory of the image NAME. It outlives the process. Threads: one at a time.
class IncompleteMark {
 public:
  enum class Found {
    kRefused,    // one that is there is of a mirror that did not end: FAILED_PRECONDITION
    kTakenOver,  // it is as good: for who has locked the image
  };

  // `directory` is open for reading. When it returns the mark is on the disk.
  static absl::StatusOr<IncompleteMark> Put(const Fd& directory, const std::string& image, Found found);

  bool taken_over() const { return taken_over_; }
  // Not from the disk yet: Remove() does that, too.
  absl::Status Unlink();
  // Also from the disk. One that somebody else has put in its place since stays. Removed already is OK.
  absl::Status Remove();

 private:
  IncompleteMark(Fd directory, std::string name, Fd file, bool taken_over)
      : directory_(std::move(directory)), name_(std::move(name)), file_(std::move(file)), taken_over_(taken_over) {}

  Fd directory_;
  std::string name_;
  Fd file_;
  bool taken_over_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_INCOMPLETE_MARK_H_
