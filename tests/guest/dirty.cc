// Writes to a working set of memory, knows what must be in every page of it, and looks whether it is.
//
//   set=16M           bytes of the working set ("set=all": all free memory)
//   stride=1          one page of so many
//   hot=...           bytes of the working set that are written (not for step); all without it
//   mode=sequential   or random, or step: every vCPU sweeps over all pages and adds one to its word of each; while it
//                     does, the words before it are one ahead of those behind it, and no other value can be there
//   write=page        or word: what a write writes (not for step)
//   fill=random       what the pages hold at first: random (incompressible), zero, none (not touched)
//   rate=0            writes a second of all vCPUs together; 0: as fast as it goes
//   report_ms=100     time between reports
//   idle=0            1: begins idle
//   waits=0           1: the first vCPU takes the time of each of its writes
//
// Commands: c check all memory; i stop writing; g go on; z forget the longest gap and the waits; w report the waits
// (writes that took longer than a page that is there could take) and how much was written; q check and power off.
#include "tests/guest/runtime/clock.h"
#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/durations.h"
#include "tests/guest/runtime/options.h"
#include "tests/guest/runtime/pages.h"
#include "tests/guest/runtime/planted.h"
#include "tests/guest/runtime/platform.h"
#include "tests/guest/runtime/smp.h"

namespace guest {
namespace {

enum class Mode { kSequential, kRandom, kStep };
enum class Request : uint32_t { kNone, kCheck, kForgetGaps, kReportWaits, kQuit };

constexpr uint64_t kSeed = 0x6665727269746521;
constexpr uint64_t kErrorsShown = 8;
constexpr uint64_t kCommandMs = 5;
constexpr uint64_t kMostDebtMs = 50;  // a pause is not made up for by a burst

struct Config {
  Mode mode;
  bool whole_pages;
  bool random_fill;
  bool touch;
  bool time_writes;
  uint64_t pages;
  uint64_t hot_pages;
  uint64_t stride;
  uint64_t rate;
  uint64_t report_ms;
};
Config config;

// How often each page was written (but for step).
uint32_t* generations;

struct alignas(128) Worker {
  uint64_t written;
  uint64_t errors;
  // step: all words are `sweeps`, those before `position` one more.
  uint64_t sweeps;
  uint64_t position;
  uint64_t random;
  uint64_t due;
};
Worker workers[kMaxCpus];

// Writes that took longer than the host takes to map a page that is there.
constexpr uint64_t kWaitFromNs = 15'000;
Durations waits;

Atomic<uint64_t> shared_writes;
Atomic<bool> idle;
Atomic<uint32_t> request;  // a Request
Atomic<uint32_t> request_number;

volatile uint64_t* PageAt(uint64_t page) {
  return reinterpret_cast<volatile uint64_t*>(FreePage(page * config.stride));
}

PageContent Content(uint64_t page, uint64_t generation) {
  return {.seed = kSeed, .page = page, .generation = generation};
}

void Wrong(Worker& worker, const char* when, uint64_t page, uint64_t word, uint64_t expected, uint64_t found) {
  if (++worker.errors <= kErrorsShown) {
    Line("error")
        .Add("when", when)
        .Add("page", page)
        .AddHex("address", reinterpret_cast<uint64_t>(PageAt(page)))
        .Add("word", word)
        .AddHex("expected", expected)
        .AddHex("found", found)
        .Send();
  }
}

uint64_t ExpectedAtFirst(uint64_t page, uint64_t word) {
  return config.random_fill ? ContentWord(Content(page, 0), word) : 0;
}

void CheckWord(Worker& worker, const char* when, uint64_t page, uint64_t word, uint64_t expected) {
  if (const uint64_t found = PageAt(page)[word]; found != expected) {
    Wrong(worker, when, page, word, expected, found);
  }
}

// The words that are written are checked first: a write must not hide that the one before it was lost.
void WritePage(Worker& worker, uint64_t page) {
  const uint32_t before = generations[page];
  const auto expected = [&](uint64_t word) {
    return before == 0 ? ExpectedAtFirst(page, word) : ContentWord(Content(page, before), word);
  };
  CheckWord(worker, "write", page, 0, expected(0));
  const PageContent content = Content(page, before + 1);
  if (config.whole_pages) {
    CheckWord(worker, "write", page, kWordsInPage - 1, expected(kWordsInPage - 1));
    FillPage(PageAt(page), content, 0);
  } else {
    PageAt(page)[0] = ContentWord(content, 0);
  }
  generations[page] = before + 1;
}

uint64_t StepValue(uint32_t cpu, uint64_t page) {
  const Worker& worker = workers[cpu];
  const uint64_t first = config.random_fill ? ContentWord(Content(page, 0), cpu) : 0;
  return first + worker.sweeps + (page < worker.position ? 1 : 0);
}

void Step(Worker& worker, uint32_t cpu) {
  const uint64_t page = worker.position;
  const uint64_t expected = StepValue(cpu, page);
  CheckWord(worker, "step", page, cpu, expected);
  PageAt(page)[cpu] = expected + 1;
  if (++worker.position == config.pages) {
    worker.position = 0;
    ++worker.sweeps;
  }
}

void CheckWholePage(Worker& worker, uint64_t page) {
  if (config.mode == Mode::kStep) {
    for (uint32_t cpu = 0; cpu < Cpus(); ++cpu) {
      CheckWord(worker, "check", page, cpu, StepValue(cpu, page));
    }
    for (uint64_t word = Cpus(); word < kWordsInPage; ++word) {
      CheckWord(worker, "check", page, word, ExpectedAtFirst(page, word));
    }
    return;
  }
  const uint32_t generation = generations[page];
  const volatile uint64_t* words = PageAt(page);
  for (uint64_t word = 0; word < kWordsInPage; ++word) {
    const bool written = generation != 0 && (config.whole_pages || word == 0);
    const uint64_t expected = written ? ContentWord(Content(page, generation), word) : ExpectedAtFirst(page, word);
    if (const uint64_t found = words[word]; found != expected) {
      Wrong(worker, "check", page, word, expected, found);
      return;
    }
  }
}

// The vCPU's share: every Cpus()th page, so that all of them work in every huge page.
uint64_t SharePages(uint32_t cpu) { return (config.hot_pages + Cpus() - 1 - cpu) / Cpus(); }

void WriteNext(Worker& worker, uint32_t cpu) {
  const uint64_t share = SharePages(cpu);
  if (config.mode == Mode::kStep) {
    Step(worker, cpu);
  } else if (config.mode == Mode::kSequential) {
    WritePage(worker, worker.position * Cpus() + cpu);
    worker.position = worker.position + 1 == share ? 0 : worker.position + 1;
  } else {
    worker.random ^= worker.random << 13;
    worker.random ^= worker.random >> 7;
    worker.random ^= worker.random << 17;
    WritePage(worker, worker.random % share * Cpus() + cpu);
  }
  ++worker.written;
  shared_writes.Add(1);
}

bool IsDue(Worker& worker) {
  if (config.rate == 0) {
    return true;
  }
  const uint64_t now = Tsc();
  if (now < worker.due) {
    return false;
  }
  const uint64_t most_debt = kMostDebtMs * TscKhz();
  worker.due = now - worker.due > most_debt ? now : worker.due;
  worker.due += TscKhz() * 1000 * Cpus() / config.rate;
  return true;
}

uint64_t Sum(uint64_t Worker::*field) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < Cpus(); ++i) {
    sum += workers[i].*field;
  }
  return sum;
}

Line& AddGaps(Line& line) {
  uint32_t worst = 0;
  for (uint32_t i = 1; i < Cpus(); ++i) {
    if (CpuAt(i).longest_gap > CpuAt(worst).longest_gap) {
      worst = i;
    }
  }
  return line.Add("gap_ns", TscToNs(CpuAt(worst).longest_gap)).Add("gap_end", CpuAt(worst).longest_gap_end);
}

void CheckAll() {
  Cpu& cpu = ThisCpu();
  Worker& worker = workers[cpu.index];
  Barrier();
  const char* lost = CheckPlantedState();
  if (lost != nullptr) {
    ++worker.errors;
    Line("error").Add("when", "check").Add("lost", lost).Send();
    PlantState();
  }
  for (uint64_t page = cpu.index; page < config.pages; page += Cpus()) {
    CheckWholePage(worker, page);
    cpu.Heartbeat();
  }
  Barrier();
  if (cpu.index == 0) {
    const uint64_t written = Sum(&Worker::written);
    if (const uint64_t shared = shared_writes.Load(); shared != written) {
      ++worker.errors;
      Line("error").Add("when", "check").Add("written", written).Add("shared", shared).Send();
    }
    Line line("check");
    line.Add("errors", Sum(&Worker::errors)).Add("pages", config.pages).Add("writes", written);
    AddGaps(line).Send();
  }
  Barrier();
}

void ReportWaits() {
  if (ThisCpu().index == 0) {
    Line line("waits");
    line.Add("count", waits.count)
        .Add("p50_ns", waits.Quantile(50))
        .Add("p99_ns", waits.Quantile(99))
        .Add("max_ns", waits.longest)
        .Add("sum_ns", waits.sum)
        .Add("writes", shared_writes.Load());
    AddGaps(line).Send();
  }
}

void Ask(Request what) {
  request.Store(static_cast<uint32_t>(what));
  request_number.Add(1);
}

void ObeyCommand() {
  switch (ReadCommand()) {
    case 'c':
      return Ask(Request::kCheck);
    case 'z':
      return Ask(Request::kForgetGaps);
    case 'w':
      return Ask(Request::kReportWaits);
    case 'q':
      return Ask(Request::kQuit);
    case 'i':
      idle.Store(true);
      return;
    case 'g':
      idle.Store(false);
      return;
  }
}

void FillShare() {
  Cpu& cpu = ThisCpu();
  if (!config.touch) {
    return;
  }
  for (uint64_t page = cpu.index; page < config.pages; page += Cpus()) {
    if (config.random_fill) {
      FillPage(PageAt(page), Content(page, 0), 0);
    } else {
      __builtin_memset(const_cast<uint64_t*>(PageAt(page)), 0, kPageBytes);
    }
    cpu.Heartbeat();
  }
}

void Work() {
  Cpu& cpu = ThisCpu();
  Worker& worker = workers[cpu.index];
  worker.random = kSeed + cpu.index;
  PlantState();
  FillShare();
  Barrier();
  if (cpu.index == 0) {
    Line("filled").Add("pages", config.pages).Send();
  }
  uint32_t seen = 0;
  uint64_t next_report = 0;
  uint64_t next_command = 0;
  worker.due = Tsc();
  for (;;) {
    cpu.Heartbeat();
    if (cpu.index == 0 && cpu.last_beat >= next_command) {
      next_command = cpu.last_beat + kCommandMs * TscKhz();
      ObeyCommand();
    }
    if (cpu.index == 0 && cpu.last_beat >= next_report) {
      next_report = cpu.last_beat + config.report_ms * TscKhz();
      Line line("dirty");
      line.Add("writes", shared_writes.Load()).Add("errors", Sum(&Worker::errors));
      AddGaps(line).Send();
    }
    if (const uint32_t now = request_number.Load(); now != seen) {
      seen = now;
      const auto what = static_cast<Request>(request.Load());
      if (what == Request::kForgetGaps) {
        cpu.ForgetGaps();
        if (cpu.index == 0) {
          __builtin_memset(&waits, 0, sizeof(waits));
        }
      } else if (what == Request::kReportWaits) {
        ReportWaits();
      } else {
        CheckAll();
      }
      if (what == Request::kQuit) {
        return;
      }
    }
    if (idle.Load() || !IsDue(worker)) {
      Relax();
    } else if (config.time_writes && cpu.index == 0) {
      const uint64_t start = Tsc();
      WriteNext(worker, cpu.index);
      if (const uint64_t ns = TscToNs(Tsc() - start); ns >= kWaitFromNs) {
        waits.Add(ns);
      }
    } else {
      WriteNext(worker, cpu.index);
    }
  }
}

void Configure() {
  config.mode = OptionIs("mode", "random", "") ? Mode::kRandom
                : OptionIs("mode", "step", "") ? Mode::kStep
                                               : Mode::kSequential;
  config.whole_pages = OptionIs("write", "page", "page");
  config.random_fill = OptionIs("fill", "random", "random");
  config.touch = !OptionIs("fill", "none", "");
  config.stride = NumberOption("stride", 1);
  config.rate = NumberOption("rate", 0);
  config.report_ms = NumberOption("report_ms", 100);
  idle.Store(NumberOption("idle", 0) != 0);
  const bool all = OptionIs("set", "all", "");
  const uint64_t asked = all ? FreePages() : NumberOption("set", 16 << 20) / kPageBytes;
  generations = static_cast<uint32_t*>(TakePages((asked / config.stride * 4 + kPageBytes) / kPageBytes));
  const uint64_t pages = all ? FreePages() : asked;
  if (pages > FreePages()) {
    Fail("set-is-larger-than-memory", FreePages());
  }
  config.pages = (pages + config.stride - 1) / config.stride;
  config.hot_pages = config.pages;
  if (HasOption("hot")) {
    config.hot_pages = (NumberOption("hot", 0) / kPageBytes + config.stride - 1) / config.stride;
  }
  if (config.hot_pages > config.pages) {
    Fail("hot-is-larger-than-the-set", config.pages);
  }
  config.time_writes = NumberOption("waits", 0) != 0;
  if (config.hot_pages < Cpus()) {
    Fail("set-is-too-small", config.pages);
  }
}

}  // namespace

void Main() {
  Configure();
  Line("ready")
      .Add("cpus", Cpus())
      .Add("pages", config.pages)
      .Add("first", FreePage(0))
      .Add("tsc_khz", TscKhz())
      .Send();
  RunOnAllCpus(Work);
  Line("done").Add("errors", Sum(&Worker::errors)).Send();
}

}  // namespace guest
