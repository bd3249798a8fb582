#include "vmm/app/events_command.h"

#include <fmt/format.h>

#include <cstdio>
#include <map>
#include <string>

#include "vmm/app/commands.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/text.h"
#include "vmm/control/machine_directory.h"

namespace ferrite {
namespace {

void Print(const WatchedEvent& event, bool json) {
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", event.time, absl::UTCTimeZone());
  if (json) {
    PrintJson({{"time", time},
               {"event", MachineEventKindName(event.event.kind)},
               {"text", event.event.text},
               {"missed", event.missed}},
              /*indented=*/false);
  } else {
    if (event.missed > 0) {
      fmt::print("({} events were missed)\n", event.missed);
    }
    fmt::print("{} {:<8} {}\n", time, MachineEventKindName(event.event.kind), IndentRest(event.event.text));
  }
  // Whoever reads a pipe wants each event when it happens.
  (void)fflush(stdout);
}

class EventsCommand final : public CommandWith<EventsCommandOptions> {
 public:
  EventsCommand() : CommandWith({"events", "Print what happens to a machine until it ends", "ferrite events web1"}) {}

  void AddTo(CLI::App& app) override {
    AddMachine(app, options_.machine);
    AddJson(app, options_.json);
  }

  absl::Status Finish() override { return CheckMachineName(options_.machine.name); }

  int Run(int64_t /*started_ns*/) override {
    return WithMachine(options_.machine, [&](ControlClient& client) -> int {
      if (const absl::Status status = client.StartWatching(); !status.ok()) {
        return Fail(status);
      }
      // By what they are about: a move's or a mirror's figures come several times a second, and only its words count
      // here.
      std::map<MachineEvent::Kind, std::string> last;
      while (true) {
        const auto event = client.NextEvent();
        if (!event.ok()) {
          return Fail(event.status());
        }
        const MachineEvent::Kind kind = event->event.kind;
        const bool figures = kind == MachineEvent::Kind::kMove || kind == MachineEvent::Kind::kMirror;
        if (!figures || event->event.text != last[kind]) {
          Print(*event, options_.json);
          if (ferror(stdout) != 0) {
            return kExitOk;  // main() tells
          }
        }
        if (figures) {
          last[kind] = event->event.text;
        }
        if (kind == MachineEvent::Kind::kStopped) {
          return kExitOk;
        }
      }
    });
  }
};

}  // namespace

std::unique_ptr<Command> MakeEventsCommand() { return std::make_unique<EventsCommand>(); }

}  // namespace ferrite
