#include "vmm/control/description_rpc.h"

#include <string>

#include "absl/time/time.h"
#include "base/clean_text.h"
#include "vmm/control/device_rpc.h"
#include "vmm/control/mirror_rpc.h"
#include "vmm/control/move_rpc.h"
#include "vmm/control/rpc_util.h"

namespace ferrite {
namespace {

MachineState FromRpc(control::State state) {
  switch (state) {
    case control::State::CREATED:
      return MachineState::kCreated;
    case control::State::PAUSED:
      return MachineState::kPaused;
    case control::State::RUNNING:
      return MachineState::kRunning;
    case control::State::STOPPED:
      break;
  }
  return MachineState::kStopped;
}

std::string Copy(capnp::Text::Reader text) { return CleanText({text.cStr(), text.size()}, kMaxLongText); }

}  // namespace

MachineDescription ReadDescription(control::Description::Reader in) {
  MachineDescription machine;
  machine.name = Copy(in.getName());
  machine.state = FromRpc(in.getState());
  machine.version = Copy(in.getVersion());
  machine.uptime = absl::Milliseconds(in.getUptimeMs());
  machine.cpus = in.getCpus();
  machine.memory_bytes = in.getMemoryBytes();
  machine.memory_backing = Copy(in.getMemoryBacking());
  machine.memory_resident_bytes = in.getMemoryResidentBytes();
  machine.memory_huge_bytes = in.getMemoryHugeBytes();
  for (const uint64_t page : in.getLostPages()) {
    machine.lost_pages.push_back(page);
  }
  machine.lost_page_count = in.getLostPageCount();
  machine.started_ns = in.getStartedNs();
  machine.first_entry_ns = in.getFirstEntryNs();
  machine.kernel = Copy(in.getKernel());
  machine.initrd = Copy(in.getInitrd());
  machine.command_line = Copy(in.getCommandLine());
  machine.devices = ReadDevices(in);
  machine.has_balloon = in.getHasBalloon();
  machine.balloon = ReadBalloon(in.getBalloon());
  machine.console_dropped_bytes = in.getConsoleDroppedBytes();
  machine.move = ReadMove(in.getMove());
  machine.arrival = ReadMove(in.getArrival());
  ReadList(in.getMirrors(), [&](auto mirror) { machine.mirrors.push_back(ReadMirror(mirror)); });
  return machine;
}

BalloonFigures ReadBalloon(control::Balloon::Reader in) {
  BalloonFigures figures;
  figures.target_bytes = in.getTargetBytes();
  figures.actual_bytes = in.getActualBytes();
  ReadList(in.getStatistics(),
           [&](auto statistic) { figures.statistics.emplace_back(Copy(statistic.getName()), statistic.getValue()); });
  return figures;
}

}  // namespace ferrite
