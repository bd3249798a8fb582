// Every vCPU counts, reports, and looks whether anything that a monitor must keep for it has changed: its registers,
// its interrupt controllers, time that only goes forward.
//
//   report_ms=100   time between reports
//   reports=0       power off after so many reports of the first vCPU; 0: never
//   nmi=1           an NMI to the vCPUs that do not take part (cpus=)
//   command q       power off
#include "tests/guest/runtime/clock.h"
#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/options.h"
#include "tests/guest/runtime/planted.h"
#include "tests/guest/runtime/platform.h"
#include "tests/guest/runtime/smp.h"

namespace guest {
namespace {

Atomic<bool> stopping;

void CheckForward(const char* what, uint64_t& last, uint64_t now) {
  if (now < last) {
    Line("error").Add("what", what).Add("before", last).Add("now", now).Send();
  }
  last = now;
}

// Looks at the clock, and by how much it went further since the last look than the time stamp counter did: not at all,
// but for what a monitor tells it of a time that it stood still.
struct ClockWatch {
  uint64_t last;
  uint64_t last_before;  // time stamp ahead of that look
  uint64_t ahead;        // the most, in nanoseconds

  void Look() {
    const uint64_t before = Tsc();
    const uint64_t now = ClockNs();
    const uint64_t most = TscToNs(Tsc() - last_before);
    if (last != 0 && now > last && now - last > most && now - last - most > ahead) {
      ahead = now - last - most;
    }
    CheckForward("clock", last, now);
    last_before = before;
  }
};

void Count() {
  Cpu& cpu = ThisCpu();
  const uint64_t period = NumberOption("report_ms", 100) * TscKhz();
  const uint64_t reports = NumberOption("reports", 0);
  PlantState();
  uint64_t count = 0;
  uint64_t reported = 0;
  uint64_t last_tsc = Tsc();
  ClockWatch clock = {};
  uint64_t next_report = last_tsc;
  while (!stopping.Load()) {
    ++count;
    cpu.Heartbeat();
    CheckForward("tsc", last_tsc, Tsc());
    clock.Look();
    if (last_tsc < next_report) {
      continue;
    }
    next_report = last_tsc + period;
    if (const char* lost = CheckPlantedState(); lost != nullptr) {
      Line("error").Add("what", lost).Send();
      PlantState();
    }
    Line("count")
        .Add("count", count)
        .Add("clock_ns", clock.last)
        .Add("clock_ahead_ns", clock.ahead)
        .Add("gap_ns", TscToNs(cpu.longest_gap))
        .Send();
    cpu.ForgetGaps();
    if (cpu.index == 0 && (++reported == reports || ReadCommand() == 'q')) {
      stopping.Store(true);
    }
  }
}

}  // namespace

void Main() {
  Line("ready").Add("cpus", Cpus()).Add("pages", FreePages()).Add("tsc_khz", TscKhz()).Send();
  if (NumberOption("nmi", 0) != 0) {
    SendNmi();
  }
  RunOnAllCpus(Count);
  Line("done").Send();
}

}  // namespace guest
