// What is to be undone when a move does not come to its end.
#ifndef FERRITE_MIGRATION_SESSION_UNDO_STACK_H_
#define FERRITE_MIGRATION_SESSION_UNDO_STACK_H_

#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace ferrite::migration {

// Each step of a move that changes the machine says how that is undone. Threads: one at a time.
class UndoStack {
 public:
  // Takes no memory for so many steps: what was done is never left for want of a place to note it.
  static constexpr size_t kSteps = 8;
  // Is told whether all went well so far, and returns whether it did. The machine is as it was when all have run.
  using Undo = std::function<absl::Status(const absl::Status& so_far)>;

  UndoStack() { steps_.reserve(kSteps); }

  // `undo` is best small: a std::function keeps two pointers in itself.
  void Push(Undo undo) { steps_.push_back(std::move(undo)); }
  // Undoes in the reverse order; each step once, whatever became of the others. The first error. One that found no
  // memory for it (std::bad_alloc) is still to be done, and so are those below it: Run() may be called again.
  absl::Status Run() {
    while (!steps_.empty()) {
      status_.Update(steps_.back()(status_));
      steps_.pop_back();
    }
    return std::exchange(status_, absl::OkStatus());
  }
  // The move is over, and nothing is undone any more.
  void Drop() { steps_.clear(); }

 private:
  std::vector<Undo> steps_;
  absl::Status status_;  // of the steps that have run
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_UNDO_STACK_H_
