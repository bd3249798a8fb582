// `ferrite doctor`: says what this host can do.
#ifndef FERRITE_VMM_APP_DOCTOR_COMMAND_H_
#define FERRITE_VMM_APP_DOCTOR_COMMAND_H_

#include <memory>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct DoctorCommandOptions {
  std::string run_dir;  // --run-dir, or empty
  bool json = false;
};

std::unique_ptr<Command> MakeDoctorCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_DOCTOR_COMMAND_H_
