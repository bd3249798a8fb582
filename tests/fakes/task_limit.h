// A control group whose processes may have so many tasks and no more (pids.max), made by root.
#ifndef FERRITE_TESTS_FAKES_TASK_LIMIT_H_
#define FERRITE_TESTS_FAKES_TASK_LIMIT_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ferrite {

class TaskLimit {
 public:
  // In the hierarchy that has the controller; mounts version 2 where none has.
  static absl::StatusOr<std::unique_ptr<TaskLimit>> Create();
  // Its processes go back to the root.
  ~TaskLimit();
  TaskLimit(const TaskLimit&) = delete;
  TaskLimit& operator=(const TaskLimit&) = delete;

  // Takes the process with all its threads; 0: the calling one, also in a child before exec.
  absl::Status Add(pid_t process) const;
  absl::Status SetMost(uint64_t tasks) const;
  absl::Status Lift() const;
  // How many there are.
  absl::StatusOr<uint64_t> Count() const;

 private:
  TaskLimit(std::string root, std::string mounted) : root_(std::move(root)), mounted_(std::move(mounted)) {}

  const std::string root_;
  const std::string mounted_;  // by this object; empty: by nobody
  std::string group_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_TASK_LIMIT_H_
