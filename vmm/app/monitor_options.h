// Options of the process around a machine, which `run` and `receive` have in common.
#ifndef FERRITE_VMM_APP_MONITOR_OPTIONS_H_
#define FERRITE_VMM_APP_MONITOR_OPTIONS_H_

#include <string>

#include "vmm/console/console_hub.h"

namespace ferrite {

struct MonitorOptions {
  std::string run_dir;  // --run-dir, or empty
  ConsoleSink console;
  std::string log_path;     // empty: the run directory's
  bool debuggable = false;  // HideProcess() is left out
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_MONITOR_OPTIONS_H_
