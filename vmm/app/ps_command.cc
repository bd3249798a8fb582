#include "vmm/app/ps_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/byte_size.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/move_text.h"
#include "vmm/app/text.h"
#include "vmm/control/machine_finder.h"
#include "vmm/control/run_base.h"

namespace ferrite {
namespace {

// A machine that does not answer is still listed.
constexpr absl::Duration kPatience = absl::Seconds(2);
// Machines that do not answer, which others can have as many of as they like, hold nobody up for longer than that: so
// many are asked at a time, and none any more after a while.
constexpr size_t kAskedAtATime = 16;
constexpr absl::Duration kPatienceForAll = absl::Seconds(10);

absl::StatusOr<MachineDescription> Ask(const std::string& base, const FoundMachine& found) {
  auto client = ControlClient::ConnectToMachine(base, found.name, kPatience);
  if (!client.ok()) {
    return client.status();
  }
  return (*client)->Describe();
}

// Each machine's answer. This user's are asked first; CANCELLED for those that were not asked.
std::vector<absl::StatusOr<MachineDescription>> AskAll(const std::string& base,
                                                       const std::vector<FoundMachine>& machines) {
  std::vector<const FoundMachine*> order;
  for (const FoundMachine& found : machines) {
    if (!found.handed_over.has_value()) {
      order.push_back(&found);
    }
  }
  std::stable_partition(order.begin(), order.end(), [](const FoundMachine* found) { return found->own; });
  std::vector<absl::StatusOr<MachineDescription>> answers(machines.size(), absl::CancelledError("not asked"));
  const MonotonicTime deadline = MonotonicTime::Now() + kPatienceForAll;
  std::atomic<size_t> next = 0;
  const auto ask = [&] {
    for (size_t i = next++; i < order.size() && MonotonicTime::Now() < deadline; i = next++) {
      answers[static_cast<size_t>(order[i] - machines.data())] = Ask(base, *order[i]);
    }
  };
  std::vector<Thread> threads;
  // This thread asks, too: alone where no other can be made.
  while (threads.size() + 1 < std::min(order.size(), kAskedAtATime)) {
    auto thread = Thread::Start("ask", ask);
    if (!thread.ok()) {
      break;
    }
    threads.push_back(*std::move(thread));
  }
  ask();
  threads.clear();
  return answers;
}

using Row = std::array<std::string, 7>;

void PrintRow(const Row& row) {
  fmt::print("{:<20} {:>8} {:<12} {:>4} {:>10} {:>10} {:>9}\n", row[0], row[1], row[2], row[3], row[4], row[5], row[6]);
}

// With what a person has to know of a move that stands still.
std::string StateText(const MachineDescription& machine) {
  if (IsHandedOver(machine.move)) {
    return absl::StrCat("handed over to ", machine.move.where, " ", FormatUptime(machine.move.progress.granted_for),
                        " ago");
  }
  return absl::StrCat(MachineStateName(machine.state), MissesMemory(machine.arrival) ? ", misses memory" : "");
}

class PsCommand final : public CommandWith<PsCommandOptions> {
 public:
  PsCommand() : CommandWith({"ps", "List the machines that run", "ferrite ps"}) {}

  void AddTo(CLI::App& app) override {
    AddRunDir(app, options_.run_dir);
    AddJson(app, options_.json);
  }

  absl::Status Finish() override { return absl::OkStatus(); }

  int Run(int64_t /*started_ns*/) override {
    const auto base = RunBase(options_.run_dir);
    if (!base.ok()) {
      return Fail(base.status(), kExitFailure);
    }
    // The usual one is made by the first machine; one that was named and is not there is a mistake.
    if (const absl::Status there = CheckRunBase(*base); !there.ok() && !options_.run_dir.empty()) {
      return Fail(there, kExitFailure);
    }
    const auto machines = ListMachines(*base);
    if (!machines.ok()) {
      return Fail(machines.status(), kExitFailure);
    }
    const auto answers = AskAll(*base, *machines);
    size_t not_asked = 0;
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    if (!options_.json) {
      PrintRow({"NAME", "PID", "STATE", "CPUS", "MEMORY", "RESIDENT", "UPTIME"});
    }
    for (size_t i = 0; i < machines->size(); ++i) {
      const FoundMachine& found = (*machines)[i];
      if (found.handed_over.has_value()) {
        if (options_.json) {
          list.push_back({{"name", found.name},
                          {"state", "handed-over"},
                          {"pid", nullptr},
                          {"destination", found.handed_over->where},
                          {"epoch", found.handed_over->epoch}});
        } else {
          PrintRow({found.name, "-", absl::StrCat("handed over to ", found.handed_over->where), "-", "-", "-", "-"});
        }
        continue;
      }
      const auto& machine = answers[i];
      const bool asked = !absl::IsCancelled(machine.status());
      not_asked += asked ? 0 : 1;
      const std::string pid = std::to_string(found.pid);
      if (options_.json) {
        list.push_back(machine.ok() ? MachineJson(*machine)
                                    : nlohmann::ordered_json({{"name", found.name},
                                                              {"state", asked ? "unreachable" : "not-asked"},
                                                              {"pid", found.pid}}));
      } else if (machine.ok()) {
        PrintRow({found.name, pid, StateText(*machine), std::to_string(machine->cpus),
                  RoundedByteSize(machine->memory_bytes), RoundedByteSize(machine->memory_resident_bytes),
                  FormatUptime(machine->uptime)});
      } else {
        // Starting, ending or stuck.
        PrintRow({found.name, pid, asked ? "unreachable" : "not asked", "-", "-", "-", "-"});
      }
    }
    if (options_.json) {
      PrintJson(list, /*indented=*/true);
    }
    if (not_asked > 0) {
      fmt::print(stderr, "ferrite: {} machines were not asked: others did not answer, for {} altogether\n", not_asked,
                 absl::FormatDuration(kPatienceForAll));
    }
    return kExitOk;
  }
};

}  // namespace

std::unique_ptr<Command> MakePsCommand() { return std::make_unique<PsCommand>(); }

}  // namespace ferrite
