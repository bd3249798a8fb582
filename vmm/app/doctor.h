// `ferrite doctor`: what this host can do for a guest, what each missing thing costs, and how to get it.
#ifndef FERRITE_VMM_APP_DOCTOR_H_
#define FERRITE_VMM_APP_DOCTOR_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace ferrite {

// ok: all that ferrite can use. limited: works, with the cost that is told. missing: not there.
enum class FindingState { kOk, kLimited, kMissing };
absl::string_view FindingStateName(FindingState state);

struct Finding {
  std::string area;  // "KVM"; findings of one area stand together
  std::string name;  // "ring-0 speed"
  FindingState state = FindingState::kOk;
  std::string value;   // what was found: "API 12", "no permission"
  std::string cost;    // what is lost; empty when ok
  std::string remedy;  // how to get it; empty when ok
};

struct DoctorReport {
  // Whether a Linux guest runs on this host's KVM, and one line that says why or why not.
  bool host_runs_linux = false;
  std::string verdict;
  std::vector<Finding> findings;
};

// Looks at the host. Needs no privilege: what cannot be looked at is a finding of its own. Starts a scratch VM for some
// milliseconds (where KVM emulates, a tenth of a second) and leaves nothing behind.
DoctorReport RunDoctor();

// Whether procfs is mounted at /proc and knows this process. No command but `doctor` and `version` works without it.
bool ProcfsIsThere();

// For people: a line for a finding, cost and remedy below it, and the verdict at the end.
std::string RenderDoctorText(const DoctorReport& report);
// For scripts: {"host_runs_linux": bool, "verdict": text, "findings": [{"area", "name", "state", "value", "cost",
// "remedy"}]}, the state as FindingStateName() says it.
std::string RenderDoctorJson(const DoctorReport& report);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_DOCTOR_H_
