// `ferrite version`: prints the version.
#ifndef FERRITE_VMM_APP_VERSION_COMMAND_H_
#define FERRITE_VMM_APP_VERSION_COMMAND_H_

#include <memory>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct VersionCommandOptions {
  std::string run_dir;  // --run-dir, or empty
  bool json = false;
};

std::unique_ptr<Command> MakeVersionCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_VERSION_COMMAND_H_
