// The run directory: where a running machine is found by its name, and where its traces are removed when it ends.
//
//   BASE/NAME/control.sock   the control socket, mode 0600
//   BASE/NAME/ferrite.pid    the monitor's process id; a lock on this file, not the number, proves that it lives
//   BASE/NAME/ferrite.log    the monitor's log
//   BASE/NAME/grant          to whom the machine was handed over (vmm/control/grant_record.h)
//   BASE/NAME.failed.log     the log of a machine that failed with nobody there to be told; BASE/NAME.failed.NUMBER.log
//                            where something of somebody else's has that name
//   BASE/.lock.UID           who holds a lock on it changes the base for that user; there only meanwhile
//
// Directories are opened once, and everything below them is reached through their descriptors (base/directory.h).
// A base in which others rename, or to which others lead, is refused; so is a machine's directory that others may write
// to. Only root may look at the machines of others.
#ifndef FERRITE_VMM_CONTROL_RUN_DIR_H_
#define FERRITE_VMM_CONTROL_RUN_DIR_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/directory.h"
#include "base/fd.h"

namespace ferrite {

// The directory of a machine that this process runs. Everything in it is removed with the object, and so are the
// directories above it that it made, mode 0700, unless somebody uses them; but not what somebody else has there since
// (a cleaner of /tmp removed what was ours, and another machine took the name).
//
// Threads: one at a time. Processes: any number may work on one base at once; changes of one user's take turns under
// flock(2) on a file that nobody else can open. UNAVAILABLE when that is held for 10 s.
class RunDir {
 public:
  // Makes BASE (with its parents) and BASE/NAME, mode 0700, and takes the lock. What a monitor that was killed left
  // there is removed first, and so is a log that KeepLog() left. ALREADY_EXISTS when a living one has the name;
  // FAILED_PRECONDITION when a killed one had handed its guest over: that guest may live elsewhere, and to forget it is
  // for a person.
  static absl::StatusOr<std::unique_ptr<RunDir>> Create(const std::string& base, absl::string_view name);
  RunDir(const RunDir&) = delete;
  RunDir& operator=(const RunDir&) = delete;
  ~RunDir();

  const std::string& name() const { return name_; }
  const std::string& path() const { return path_; }
  std::string socket_path() const;
  std::string log_path() const;
  // What is kept of it from its making to its end.
  const Fd& directory() const { return directory_; }

  // The log, new and empty.
  absl::StatusOr<Fd> CreateLog() const;

  // Has the log outlive the directory, as BASE/NAME.failed.log, or under a name that is free. Nothing when there is
  // none.
  void KeepLog() const;

  // Opens the control socket. Call it when the machine is ready for clients.
  absl::StatusOr<Fd> ListenOnControlSocket() const;

 private:
  // Whether another machine has the directory by now: somebody removed our files in it, and then one was started.
  bool IsAnothers() const;

  RunDir(std::vector<MadeDirectory> made, Fd base, std::string name, std::string path, Fd directory, Fd pid_file)
      : made_(std::move(made)),
        base_(std::move(base)),
        name_(std::move(name)),
        path_(std::move(path)),
        directory_(std::move(directory)),
        pid_file_(std::move(pid_file)) {}

  const std::vector<MadeDirectory> made_;
  const Fd base_;
  const std::string name_;
  const std::string path_;  // for people, and for those who connect
  const Fd directory_;
  const Fd pid_file_;  // locked
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_RUN_DIR_H_
