// The moving engine alone: a guest that is a thread (engine_guest.h) moves from one process to another, beside the
// limits of this host measured in the same run, in turns. It needs no KVM, and so measures anywhere.
//
//   ./dev bench //bench:engine_bench [NAME=VALUE | --NAME=VALUE | --once | --json]...
//
//   size=1024          MiB of the guest; three quarters are filled, a quarter is written by a writer (a power of two)
//   rounds=3           of everything
//   case=TEXT          only cases whose names have all parts of TEXT: postcopy, idle-precopy-unix,
//                      random-postcopy-tcp-1
//   channels=1,4       page channels
//   faulters=8         threads that read in the cases "readers"
//   backing=anon       or memfd, hugetlb-2M, as ferrite's --memory-backing
//   thp=1              0: no transparent huge pages, as ferrite's --thp
//   link=0             Mbit/s of a slower line that all of tcp goes over; 0: the host's loopback as it is. Needs root
//   rdma=ADDRESS       of an RDMA device: all cases are over that, and over tcp at the same address, which is local
//   busy=0             threads beside it that never sleep
//   --fragmented       the host's free memory is in single pages (docs/performance.md): each case with huge pages, and
//                      then without
//   limits=1           0: without the limits
//   --once             rounds=1 limits=0: one quick figure, to set two builds beside each other in turns
//   --json             one object on standard output, and no table; {"error": TEXT} when something failed
//
// A case is GUEST-MODE-SOCKET-CHANNELS; its limits are of as many streams, of all together. Sockets: tcp, unix, and
// tls, which is over tcp; rdma, whose limits are those of tcp (and of the device: //bench:rdma_bench). Guests: idle
// (one write each 200 us), zeros (the same; its memory is all zeros), sequential and random (they write at full speed),
// light (the same as sequential, in 16 MiB), whole (the same as random, in all of its filled memory, which is half of
// it), readers (threads that read what has not arrived, at random).
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/mapping.h"
#include "base/status.h"
#include "bench/arguments.h"
#include "bench/engine_sides.h"
#include "bench/host_load.h"
#include "bench/monitor_process.h"
#include "bench/move_limits.h"
#include "bench/samples.h"
#include "bench/where.h"
#include "memory/memory_region.h"
#include "migration/api/move_options.h"
#include "tests/fakes/tls_place.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;
using migration::MoveMode;

constexpr absl::Duration kTimeout = absl::Seconds(120);
constexpr uint64_t kMiB = 1 << 20;

struct Inputs {
  uint64_t size = 1024;
  int rounds = 3;
  std::string only;
  std::vector<int> channels = {1, 4};
  uint32_t faulters = 8;
  std::string backing = "anon";
  bool thp = true;
  uint32_t link = 0;
  std::string rdma;
  uint32_t busy = 0;
  bool fragmented = false;
  bool limits = true;
  bool json = false;

  uint64_t set_bytes() const { return size * kMiB / 4 * 3; }
  uint64_t hot_bytes() const { return std::bit_floor(size * kMiB / 4); }
  uint64_t light_bytes() const { return std::min(hot_bytes(), 16 * kMiB); }
  // Of a guest without a move.
  uint32_t quiet_ms() const { return size < 256 ? 20 : 300; }
};

// What a move goes over, and in how many streams.
using Way = std::pair<SocketKind, int>;

struct Case {
  const char* guest;
  const char* mode_name;
  MoveMode mode;
  GuestWork work;
  bool zeros = false;
  bool readers = false;
  bool whole = false;
  bool light = false;
  SocketKind kind = SocketKind::kTcp;
  bool rdma = false;  // with queue pairs beside them
  int channels = 1;
  bool thp = true;
  bool beside_small = false;  // measured with huge pages and without

  Way way() const { return {kind, channels}; }
  std::string Name() const {
    return absl::StrCat(guest, "-", mode_name, "-", rdma ? "rdma" : SocketKindName(kind), "-", channels,
                        !beside_small ? ""
                        : thp         ? "-huge"
                                      : "-small");
  }
};

constexpr Case kGuests[] = {
    {.guest = "idle", .mode_name = "precopy", .mode = MoveMode::kPrecopy, .work = GuestWork::kIdle},
    {.guest = "zeros", .mode_name = "precopy", .mode = MoveMode::kPrecopy, .work = GuestWork::kIdle, .zeros = true},
    {.guest = "sequential", .mode_name = "precopy", .mode = MoveMode::kPrecopy, .work = GuestWork::kSequential},
    {.guest = "light",
     .mode_name = "precopy",
     .mode = MoveMode::kPrecopy,
     .work = GuestWork::kSequential,
     .light = true},
    {.guest = "random", .mode_name = "precopy", .mode = MoveMode::kPrecopy, .work = GuestWork::kRandom},
    {.guest = "sequential", .mode_name = "postcopy", .mode = MoveMode::kPostcopy, .work = GuestWork::kSequential},
    {.guest = "random", .mode_name = "postcopy", .mode = MoveMode::kPostcopy, .work = GuestWork::kRandom},
    {.guest = "readers",
     .mode_name = "postcopy",
     .mode = MoveMode::kPostcopy,
     .work = GuestWork::kIdle,
     .readers = true},
    {.guest = "random", .mode_name = "auto", .mode = MoveMode::kAuto, .work = GuestWork::kRandom},
    {.guest = "whole", .mode_name = "auto", .mode = MoveMode::kAuto, .work = GuestWork::kRandom, .whole = true},
};

bool Wanted(const Case& one, const std::string& only) {
  const std::set<std::string> parts = absl::StrSplit(one.Name(), '-');
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(only, '-', absl::SkipEmpty()))) {
    if (!parts.contains(part)) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<std::vector<Case>> Cases(const Inputs& inputs) {
  std::vector<Case> cases;
  struct Over {
    SocketKind kind;
    bool rdma = false;
  };
  const std::vector<Over> all = inputs.rdma.empty()
                                    ? std::vector<Over>{{SocketKind::kTcp}, {SocketKind::kUnix}, {SocketKind::kTls}}
                                    : std::vector<Over>{{SocketKind::kTcp}, {SocketKind::kTcp, /*rdma=*/true}};
  for (const Over& over : all) {
    for (const int channels : inputs.channels) {
      for (Case one : kGuests) {
        one.kind = over.kind;
        one.rdma = over.rdma;
        one.channels = channels;
        one.thp = inputs.thp;
        one.beside_small = inputs.fragmented;
        if (Wanted(one, inputs.only)) {
          cases.push_back(one);
          if (inputs.fragmented) {
            one.thp = false;
            cases.push_back(one);
          }
        }
      }
    }
  }
  if (cases.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("no case has all the parts of '", inputs.only, "'"));
  }
  return cases;
}

class Directory {
 public:
  Directory() { path_ = mkdtemp(path_.data()); }
  ~Directory() {
    (void)unlink(socket().c_str());
    (void)rmdir(path_.c_str());
  }
  std::string socket() const { return path_ + "/socket"; }

 private:
  // Short: a socket's path has 107 bytes.
  std::string path_ = "/tmp/engine-bench-XXXXXX";
};

// The next line that `process` says, which must be `what`.
absl::StatusOr<Json> Hear(MonitorProcess& process, const std::string& what) {
  FERRITE_ASSIGN_OR_RETURN(const std::string line, process.WaitForLine("\"said\":", kTimeout));
  Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  const std::string said = json.is_object() ? json.value("said", std::string()) : "";
  if (said == "failed") {
    return absl::InternalError(json.value("error", line));
  }
  if (said != what) {
    return absl::InternalError(absl::StrCat("expected '", what, "', heard ", line));
  }
  json.erase("said");
  return json;
}

absl::StatusOr<std::unique_ptr<MonitorProcess>> StartSide(const char* side, const SideTask& task) {
  return MonitorProcess::Start({"/proc/self/exe", "--side", side, ToJson(task).dump()});
}

// One move, all its figures by name.
absl::StatusOr<Json> OneMove(const Inputs& inputs, const Case& what) {
  const Directory directory;
  SideTask task;
  FERRITE_ASSIGN_OR_RETURN(task.memory.backing, ParseMemoryBacking(inputs.backing));
  task.memory.bytes = inputs.size * kMiB;
  task.memory.thp = what.thp;
  const uint64_t whole = 2 * inputs.hot_bytes();
  task.plan = {.set_pages = (what.whole ? whole : inputs.set_bytes()) / kPageBytes,
               .hot_pages = (what.whole   ? whole
                             : what.light ? inputs.light_bytes()
                                          : inputs.hot_bytes()) /
                            kPageBytes,
               .work = what.work,
               .zeros = what.zeros,
               .readers = what.readers ? inputs.faulters : 0};
  task.mode = what.mode;
  task.channels = what.channels;
  task.quiet_ms = inputs.quiet_ms();
  if (what.kind == SocketKind::kUnix) {
    task.listen = absl::StrCat("unix:", directory.socket());
  } else {
    task.listen = absl::StrCat(what.rdma ? "rdma:" : "tcp:", inputs.rdma.empty() ? "127.0.0.1" : inputs.rdma, ":0");
  }
  std::optional<migration::TlsPlace> tls;
  if (what.kind == SocketKind::kTls) {
    task.tls_directory = tls.emplace().directory();
  }

  FERRITE_RETURN_IF_ERROR(TouchFreeMemory(task.memory.bytes));
  FERRITE_ASSIGN_OR_RETURN(const auto source, StartSide("source", task));
  FERRITE_ASSIGN_OR_RETURN(Json figures, Hear(*source, "running"));
  FERRITE_ASSIGN_OR_RETURN(const auto destination, StartSide("destination", task));
  FERRITE_ASSIGN_OR_RETURN(const Json listening, Hear(*destination, "listening"));
  // The destination's memory, and some.
  FERRITE_RETURN_IF_ERROR(TouchFreeMemory(task.memory.bytes + task.memory.bytes / 4));
  FERRITE_RETURN_IF_ERROR(source->Write(absl::StrCat(listening.value("address", std::string()), "\n")));
  FERRITE_ASSIGN_OR_RETURN(const Json sent, Hear(*source, "done"));
  FERRITE_ASSIGN_OR_RETURN(const Json received, Hear(*destination, "done"));
  FERRITE_RETURN_IF_ERROR(source->WaitForEnd().status());
  FERRITE_RETURN_IF_ERROR(destination->WaitForEnd().status());
  figures.update(sent);
  figures.update(received);
  figures["sent_of_filled"] = figures.value("bytes", 0.0) / static_cast<double>(task.plan.set_pages * kPageBytes);
  if (const uint64_t wrong = figures.value("wrong_pages", uint64_t{1}); wrong != 0) {
    return absl::DataLossError(absl::StrCat("the guest found ", wrong, " pages that did not hold what they must"));
  }
  return figures;
}

// The rounds of one case.
struct Rounds {
  Case what;
  std::vector<Json> moves;

  double Median(const char* figure) const {
    Samples samples;
    for (const Json& move : moves) {
      samples.Add(move.value(figure, 0.0));
    }
    return samples.Median();
  }
  Json Medians() const {
    Json medians = Json::object();
    for (const auto& [name, value] : moves.at(0).items()) {
      medians[name] = Median(name.c_str());
    }
    return medians;
  }
};

// How long the raw stream would have taken for as many bytes, as a part of what the move took.
double OfRaw(const Rounds& rounds, const MoveLimits& limits, const Samples& raw_ms) {
  return raw_ms.Median() * rounds.Median("bytes") / limits.stream_bytes / rounds.Median("total_ms");
}

// Of each case that was measured in both ways, the total with huge pages in that without, round by round.
void PrintBesideSmall(const std::vector<Rounds>& all) {
  for (size_t i = 0; i + 1 < all.size(); i += 2) {
    Samples ratios;
    for (size_t round = 0; round < all[i].moves.size(); ++round) {
      ratios.Add(all[i].moves[round].value("total_ms", 0.0) / all[i + 1].moves[round].value("total_ms", 0.0));
    }
    absl::PrintF("%s: the time without huge pages x %.2f (p10 %.2f, p90 %.2f)\n", all[i].what.Name(), ratios.Median(),
                 ratios.Quantile(0.1), ratios.Quantile(0.9));
  }
}

void PrintTable(const std::vector<Rounds>& all, const std::map<Way, MoveLimits>& limits) {
  absl::PrintF(
      "%-26s %8s %7s %6s %6s %6s %7s %7s %7s %7s %8s %8s %8s %7s %7s %7s\n%-26s %8s %7s %6s %6s %6s %7s %7s %7s %7s "
      "%8s %8s %8s %7s %7s %7s\n",
      "case", "total", "MiB", "sent/", "fresh", "mapped", "still", "arrival", "longest", "faults", "wait p50",
      "wait p99", "wait sum", "p50/", "CPU", "CPU", "", "ms", "sent", "filled", "x", "x", "ms", "gap ms", "gap ms", "",
      "us", "us", "ms", "bare", "src s", "dst s");
  for (const Rounds& rounds : all) {
    const auto& limit = limits.find(rounds.what.way());
    const bool with = limit != limits.end();
    const auto ratio = [&](double value) { return with ? absl::StrFormat("%.2f", value) : std::string("-"); };
    const bool waited = rounds.Median("waits") > 0;
    absl::PrintF("%-26s %8.1f %7.0f %6.2f %6s %6s %7.2f %7.2f %7.2f %7.0f %8.1f %8.1f %8.1f %7s %7.2f %7.2f\n",
                 rounds.what.Name(), rounds.Median("total_ms"), rounds.Median("bytes") / kMiB,
                 rounds.Median("sent_of_filled"),
                 ratio(with ? OfRaw(rounds, limit->second, limit->second.fresh_ms) : 0),
                 ratio(with ? OfRaw(rounds, limit->second, limit->second.warm_ms) : 0), rounds.Median("standstill_ms"),
                 rounds.Median("arrival_gap_ms"), rounds.Median("longest_gap_ms"), rounds.Median("faults"),
                 rounds.Median("wait_p50_us"), rounds.Median("wait_p99_us"), rounds.Median("wait_sum_ms"),
                 waited ? ratio(with ? rounds.Median("wait_p50_us") / limit->second.fault_p50_us.Median() : 0) : "-",
                 rounds.Median("source_engine_cpu_s"), rounds.Median("destination_engine_cpu_s"));
  }
  absl::PrintF(
      "sent/filled: bytes sent, of what the guest had filled of its memory; fresh, mapped: the raw stream's time for "
      "as many bytes, into fresh and into mapped memory, in that of the move; "
      "still: by the engine's account; gaps: between two writes of the guest, over the switch and in the whole move "
      "(a page waited for included); waits: the guest's, by the destination's account, p50 also beside the bare "
      "handler's; CPU: without the guest's threads\n");
}

Json LimitsJson(const MoveLimits& limits) {
  return {{"stream_bytes", limits.stream_bytes},
          {"warm_ms", limits.warm_ms.Median()},
          {"fresh_ms", limits.fresh_ms.Median()},
          {"fresh_beside_poller_ms", limits.fresh_beside_vcpu_ms.Median()},
          {"bare_fault_p50_us", limits.fault_p50_us.Median()},
          {"bare_fault_p99_us", limits.fault_p99_us.Median()}};
}

Json InputsJson(const Inputs& inputs, const std::string& where) {
  return {{"size_mib", inputs.size},
          {"set_mib", inputs.set_bytes() / kMiB},
          {"hot_mib", inputs.hot_bytes() / kMiB},
          {"rounds", inputs.rounds},
          {"channels", inputs.channels},
          {"faulters", inputs.faulters},
          {"link_mbits", inputs.link},
          {"rdma", inputs.rdma},
          {"backing", inputs.backing},
          {"thp", inputs.thp},
          {"busy", inputs.busy},
          {"fragmented", inputs.fragmented},
          {"where", where}};
}

void PrintJson(const Inputs& inputs, const std::string& where, const std::vector<Rounds>& all,
               const std::map<Way, MoveLimits>& limits) {
  Json out = {{"inputs", InputsJson(inputs, where)}, {"limits", Json::object()}, {"cases", Json::array()}};
  for (const auto& [way, of_way] : limits) {
    out["limits"][absl::StrCat(SocketKindName(way.first), "-", way.second)] = LimitsJson(of_way);
  }
  for (const Rounds& rounds : all) {
    Json one = {{"name", rounds.what.Name()}, {"median", rounds.Medians()}, {"rounds", rounds.moves}};
    if (const auto limit = limits.find(rounds.what.way()); limit != limits.end()) {
      one["of_fresh"] = OfRaw(rounds, limit->second, limit->second.fresh_ms);
      one["of_mapped"] = OfRaw(rounds, limit->second, limit->second.warm_ms);
    }
    out["cases"].push_back(std::move(one));
  }
  std::printf("%s\n", out.dump().c_str());
}

absl::Status Measure(const Inputs& inputs) {
  FERRITE_ASSIGN_OR_RETURN(const std::vector<Case> cases, Cases(inputs));
  FERRITE_RETURN_IF_ERROR(ParseMemoryBacking(inputs.backing).status());
  std::vector<Rounds> all;
  std::map<Way, MoveLimits> limits;
  for (const Case& one : cases) {
    all.push_back({.what = one, .moves = {}});
    if (inputs.limits) {
      (void)limits[one.way()];
    }
  }
  const BusyThreads busy(inputs.busy);
  std::optional<FragmentedMemory> fragmented;
  if (inputs.fragmented) {
    FERRITE_ASSIGN_OR_RETURN(fragmented, FragmentedMemory::Create());
  }
  const std::string where = WhereItRuns(Needs::kNothing);
  if (!inputs.json) {
    absl::PrintF(
        "inputs: %d rounds; guest of %d MiB on %s%s, %d MiB filled with random words (zeros: with zeros), of which a "
        "writer writes %d MiB at full speed; %d readers; %d busy threads beside; %s%s%s\n",
        inputs.rounds, inputs.size, inputs.backing, inputs.thp ? " with huge pages" : "", inputs.set_bytes() / kMiB,
        inputs.hot_bytes() / kMiB, inputs.faulters, inputs.busy,
        inputs.fragmented ? "free memory in single pages; " : "",
        inputs.link > 0 ? absl::StrCat("tcp over a line of ", inputs.link, " Mbit/s; ") : "", where);
    std::fflush(stdout);
  }
  for (int round = 0; round < inputs.rounds; ++round) {
    for (auto& [way, of_way] : limits) {
      FERRITE_ASSIGN_OR_RETURN(const Mapping source, MakeIncompressible(inputs.set_bytes()));
      FERRITE_RETURN_IF_ERROR(of_way.Add(way.first, source.span(), static_cast<size_t>(way.second)));
    }
    for (Rounds& rounds : all) {
      if (isatty(STDERR_FILENO) != 0) {
        absl::FPrintF(stderr, "round %d of %d: %s\n", round + 1, inputs.rounds, rounds.what.Name());
      }
      auto move = OneMove(inputs, rounds.what);
      FERRITE_RETURN_IF_ERROR(Annotate(move.status(), rounds.what.Name()));
      rounds.moves.push_back(*std::move(move));
    }
  }
  if (inputs.json) {
    PrintJson(inputs, where, all, limits);
    return absl::OkStatus();
  }
  for (const auto& [way, of_way] : limits) {
    of_way.Print(way.first, static_cast<size_t>(way.second));
  }
  PrintTable(all, limits);
  if (inputs.fragmented) {
    PrintBesideSmall(all);
  }
  return absl::OkStatus();
}

// A network of this process and its children's own, whose loopback carries so much: a queue before a shaper, as of a
// line that all connections share.
absl::Status SlowDown(uint32_t mbits) {
  if (unshare(CLONE_NEWNET) != 0) {
    return ErrnoStatus("link: a network namespace of its own");
  }
  // What is on its way in 50 ms fits into the queue, and the largest packet of the loopback into the burst.
  const std::string command =
      absl::StrCat("ip link set lo up && tc qdisc add dev lo root tbf rate ", mbits, "mbit burst 256k latency 50ms");
  if (system(command.c_str()) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("link: '", command, "' failed"));
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  if (argc == 4 && absl::string_view(argv[1]) == "--side") {
    return RunSide(argv[2], argv[3]);
  }
  std::vector<std::string> arguments = ArgumentsOf(argc, argv);
  Inputs inputs;
  bool once = false;
  CLI::App app("The moving engine alone, two processes and a guest that is a thread, beside this host's limits");
  app.add_option("--size", inputs.size, "MiB of the guest")->check(CLI::Range(16, 1 << 20))->capture_default_str();
  app.add_option("--rounds", inputs.rounds, "Of everything")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--case", inputs.only, "Only cases whose names have all parts of this, as in postcopy-tcp");
  app.add_option("--channels", inputs.channels, "Page channels, one number or more")
      ->delimiter(',')
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  app.add_option("--faulters", inputs.faulters, "Threads of the cases 'readers'")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--backing", inputs.backing, "anon, memfd or hugetlb-2M")->capture_default_str();
  app.add_option("--thp", inputs.thp, "0: no transparent huge pages")->capture_default_str();
  app.add_option("--link", inputs.link, "Mbit/s of the line that tcp goes over; 0: as fast as it goes")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  app.add_option("--rdma", inputs.rdma, "Address of an RDMA device: over that, and over tcp there");
  app.add_option("--busy", inputs.busy, "Threads beside it that never sleep")
      ->check(CLI::Range(0, 256))
      ->capture_default_str();
  app.add_flag("--fragmented", inputs.fragmented, "Free memory in single pages; with huge pages, and then without");
  app.add_option("--limits", inputs.limits, "0: without the limits")->capture_default_str();
  app.add_flag("--once", once, "One round, without the limits");
  app.add_flag("--json", inputs.json, "One JSON object, and no table");
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  if (once) {
    inputs.rounds = 1;
    inputs.limits = false;
  }
  absl::Status status = inputs.link > 0 ? SlowDown(inputs.link) : absl::OkStatus();
  if (status.ok()) {
    status = Measure(inputs);
  }
  if (!status.ok()) {
    if (inputs.json) {
      std::printf("%s\n", Json({{"error", status.ToString()}}).dump().c_str());
    }
    std::fprintf(stderr, "engine_bench: %s\n", status.ToString().c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) { return ferrite::Main(argc, argv); }
