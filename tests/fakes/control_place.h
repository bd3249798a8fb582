// A run directory of one machine, "vm", and its control socket, for as long as a test.
#ifndef FERRITE_TESTS_FAKES_CONTROL_PLACE_H_
#define FERRITE_TESTS_FAKES_CONTROL_PLACE_H_

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "base/fd.h"
#include "vmm/control/client.h"
#include "vmm/control/run_dir.h"

namespace ferrite {

class ControlPlace {
 public:
  // Ends the test's process when it cannot be made.
  ControlPlace();
  ~ControlPlace();

  // --run-dir of commands.
  const std::string& base() const { return base_; }
  RunDir& dir() { return *dir_; }
  // The monitor of the machine is gone.
  void RemoveDir() { dir_.reset(); }
  // Its socket, on which nobody listens yet. Once.
  Fd Listen();
  // A client of who listens; null, and the test fails, when there is none.
  std::unique_ptr<ControlClient> Connect(absl::Duration timeout = absl::Seconds(60)) const;

 private:
  std::string base_ = "/tmp/ferrite-control-XXXXXX";  // short: a socket's path has 107 bytes
  std::unique_ptr<RunDir> dir_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_CONTROL_PLACE_H_
