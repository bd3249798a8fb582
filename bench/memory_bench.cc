// The memory of a monitor beside its guest's RAM, and what it is made of. Fails when the promise is broken.
#include <cstdio>
#include <string>

#include "absl/strings/str_format.h"
#include "bench/memory_use.h"
#include "bench/where.h"

namespace ferrite {
namespace {

constexpr double kPromise = 5 * kMiBytes;

// Whether the promise is kept.
bool Print(const char* when, const MemoryUse& use) {
  const auto own = static_cast<double>(use.own);
  absl::PrintF("memory of the monitor beside guest RAM, %s: %.2f of the promised 5 MiB\n", when, own / kPromise);
  absl::PrintF("  its own pages %.2f MiB: %s\n", own / kMiBytes, use.Parts());
  absl::PrintF("  with its share of what others map, too (PSS), %.2f MiB; with all of that (RSS) %.2f MiB\n",
               static_cast<double>(use.proportional) / kMiBytes, static_cast<double>(use.resident) / kMiBytes);
  absl::PrintF("  a second machine adds %.2f MiB: the program is in memory once\n",
               static_cast<double>(use.anonymous + use.kernel) / kMiBytes);
  return own < kPromise;
}

int Main() {
  if (const auto status = CannotRunHere("memory_bench")) {
    return *status;
  }
  const auto memory = MeasureMonitorMemory();
  if (!memory.ok()) {
    (void)std::fprintf(stderr, "memory_bench: %s\n", memory.status().ToString().c_str());
    return 1;
  }
  absl::PrintF("inputs: 128 MiB on a memfd (%.1f MiB of it in use), 1 vCPU, balloon, disk and rng at work; %s\n",
               static_cast<double>(memory->at_rest.guest_resident) / kMiBytes, WhereItRuns(Needs::kKvm));
  const bool at_rest = Print("at rest", memory->at_rest);
  absl::PrintF("after info, pause, resume and balloon, with a watcher connected: RSS %.2f MiB\n",
               static_cast<double>(memory->in_commands.resident) / kMiBytes);
  const bool after_commands = Print("after the watcher has gone", memory->after_commands);
  return at_rest && after_commands ? 0 : 1;
}

}  // namespace
}  // namespace ferrite

int main() { return ferrite::Main(); }
