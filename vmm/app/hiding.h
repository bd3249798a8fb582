// What other processes of the same user may see of this one.
#ifndef FERRITE_VMM_APP_HIDING_H_
#define FERRITE_VMM_APP_HIDING_H_

#include "absl/status/status.h"

namespace ferrite {

// PR_SET_DUMPABLE (prctl(2)): from here on no other process without CAP_SYS_PTRACE looks into this one's memory,
// descriptors and environment through /proc or a debugger, and no core is written. What the monitor itself needs of
// /proc/self and could not open any more is open afterwards. Before there is guest memory. A child that does
// not exec calls it again: it is hidden from its first instant on, but needs files of its own.
absl::Status HideProcess();

// Overwrites what follows `--cmdline` among the program's arguments, which every user may read in /proc/PID/cmdline.
void HideCommandLine(int argc, char** argv);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_HIDING_H_
