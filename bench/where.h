// Where a benchmark runs: its figures say so, and one that cannot run here says why and what runs instead.
#ifndef FERRITE_BENCH_WHERE_H_
#define FERRITE_BENCH_WHERE_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// The exit status of a benchmark that cannot run here: `./dev bench` counts it as neither measured nor failed.
inline constexpr int kCannotRunHere = 77;

// OK when `path` is the KVM device and this process may use it; else what is wrong. A file of that name that is
// something else (in a container's /dev, say) is no KVM.
absl::Status KvmIsHere(const std::string& path = "/dev/kvm");

enum class Needs { kNothing, kKvm };

// "KVM with hardware virtualisation (kvm_intel), 2 processors (MODEL), Linux 6.1.0, load 0.52": for the line of inputs.
// The load is that of the last minute, when it is called.
std::string WhereItRuns(Needs needs);

// For main() of benchmark `name`, which needs KVM: nothing where there is KVM. Else says in one line that it cannot run
// here, why, and what runs instead, and returns main()'s status.
std::optional<int> CannotRunHere(absl::string_view name);

}  // namespace ferrite

#endif  // FERRITE_BENCH_WHERE_H_
