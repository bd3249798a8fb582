// The exit codes of the ferrite command. docs/commands.md and the help text list them.
#ifndef FERRITE_VMM_APP_EXIT_CODES_H_
#define FERRITE_VMM_APP_EXIT_CODES_H_

namespace ferrite {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailure = 1,
  kExitUsage = 2,          // the command line is wrong; nothing was done
  kExitNoSuchMachine = 3,  // no living machine has that name
  kExitGuestFault = 4,     // the guest cannot go on (run)
  kExitDeadline = 5,       // no answer in time, or the balloon did not reach its target in time
};

inline constexpr char kExitCodesHelp[] =
    "Exit codes: 0 success, 1 failure, 2 wrong usage, 3 no such machine, 4 guest fault, 5 deadline passed";

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_EXIT_CODES_H_
