#include "bench/engine_sides.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>

#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"
#include "migration/channel/rdma/ibverbs.h"
#include "migration/channel/rdma/rdma_rendezvous.h"
#include "migration/channel/rendezvous.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "migration/channel/socket/stream_security.h"
#include "migration/session/destination.h"
#include "migration/session/source.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/tls_place.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;

constexpr double kMs = 1e-6;  // of ns
constexpr double kUs = 1e-3;
constexpr absl::Duration kPatience = absl::Seconds(30);

void Say(const char* what, Json line) {
  line["said"] = what;
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

// Processor time of this process: all of it, and that of the guest's threads in it.
struct CpuTime {
  double process = 0;
  double guest = 0;

  static CpuTime Now(const EngineGuest* guest) {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    CpuTime time;
    for (const timeval& part : {usage.ru_utime, usage.ru_stime}) {
      time.process += static_cast<double>(part.tv_sec) + static_cast<double>(part.tv_usec) * 1e-6;
    }
    time.guest = guest == nullptr ? 0 : guest->CpuSeconds();
    return time;
  }
};

void AddCpu(const char* side, const CpuTime& before, const CpuTime& after, Json& line) {
  const double process = after.process - before.process;
  line[std::string(side) + "_cpu_s"] = process;
  line[std::string(side) + "_engine_cpu_s"] = process - (after.guest - before.guest);
}

double Ms(absl::Duration time) { return absl::ToDoubleMilliseconds(time); }
double Us(absl::Duration time) { return absl::ToDoubleMicroseconds(time); }

void AddReport(const migration::MoveReport& report, Json& line) {
  line["total_ms"] = Ms(report.total);
  line["bytes"] = report.bytes;
  line["standstill_ms"] = Ms(report.downtime);
  line["stop_ms"] = Ms(report.stop);
  line["last_pages_ms"] = Ms(report.last_pages);
  line["state_ms"] = Ms(report.state);
  line["send_ms"] = Ms(report.send);
  line["load_ms"] = Ms(report.load);
  line["run_ms"] = Ms(report.run);
  line["rounds"] = report.rounds;
  line["data_pages"] = report.data_pages;
  line["zero_pages"] = report.zero_pages;
  line["skipped_pages"] = report.skipped_pages;
  line["twice_pages"] = report.resent_pages;
  line["faults"] = report.faults;
  line["minor_faults"] = report.minor_faults;
  line["requested_pages"] = report.requested_pages;
  line["prefetched_pages"] = report.prefetched_pages;
  line["duplicate_pages"] = report.duplicate_pages;
  migration::WaitingFigures guest;
  for (const migration::WaitingFigures& waiting : report.waiting) {
    if (waiting.vcpu != migration::WaitingFigures::kMonitor) {
      guest = waiting;
    }
  }
  line["waits"] = guest.count;
  line["wait_p50_us"] = Us(guest.p50);
  line["wait_p99_us"] = Us(guest.p99);
  line["wait_sum_ms"] = Ms(guest.sum);
}

std::shared_ptr<migration::StreamSecurity> SecurityOf(const SideTask& task, migration::TlsSide side) {
  return task.tls_directory.empty()
             ? nullptr
             : migration::SecurityOf({.directory = task.tls_directory, .psk_file = "", .hostname = "localhost"}, side);
}

// The host's; a process has one move.
absl::StatusOr<migration::Verbs*> LoadVerbs() {
  FERRITE_ASSIGN_OR_RETURN(auto verbs, migration::LoadIbverbs(RealClock(), migration::AnyHost().threads));
  return verbs.release();
}

void AddRdma(const migration::RdmaFigures& figures, Json& line) {
  line["rdma_written_bytes"] = figures.written_bytes.load();
  line["rdma_read_bytes"] = figures.read_bytes.load();
  line["rdma_inline_bytes"] = figures.inline_bytes.load();
  line["rdma_registered_bytes"] = figures.registered_bytes.load();
  line["rdma_registering_ms"] = static_cast<double>(figures.registering_nanoseconds.load()) * kMs;
  line["rdma_refused_chunks"] = figures.refused_chunks.load();
}

absl::StatusOr<std::unique_ptr<migration::ChannelAcceptor>> AcceptorAt(std::unique_ptr<migration::Listener> listener,
                                                                       const SideTask& task) {
  if (listener->address().kind == migration::Address::Kind::kRdma) {
    FERRITE_ASSIGN_OR_RETURN(migration::Verbs* const verbs, LoadVerbs());
    return migration::RdmaAcceptor::Create(std::move(listener), {}, *verbs, migration::RdmaOptions{},
                                           migration::AnyHost());
  }
  return migration::SocketAcceptor::Create(
      std::move(listener), {.security = SecurityOf(task, migration::TlsSide::kDestination)}, migration::AnyHost());
}

absl::Status RunSource(const SideTask& task) {
  FERRITE_ASSIGN_OR_RETURN(const auto memory, MakeEngineMemory(task.memory));
  EngineGuest guest(*memory, task.plan);
  guest.Fill();
  guest.Resume();
  if (!guest.AwaitWriteHere(kPatience)) {
    return absl::DeadlineExceededError("the guest does not write");
  }
  // The longest hole that this host makes by itself, and how fast the guest is when nothing else is at work.
  guest.ForgetGaps();
  const uint64_t writes = guest.figures().writes;
  const absl::Duration quiet = absl::Milliseconds(task.quiet_ms);
  absl::SleepFor(quiet);
  const GuestFigures seen = guest.figures();
  Say("running", {{"quiet_gap_ms", static_cast<double>(seen.longest_gap) * kMs},
                  {"quiet_writes_per_s", static_cast<double>(seen.writes - writes) / absl::ToDoubleSeconds(quiet)}});
  std::string where;
  if (!std::getline(std::cin, where)) {
    return absl::UnavailableError("nobody says where the destination is");
  }
  FERRITE_ASSIGN_OR_RETURN(const migration::Address address, migration::ParseAddress(where));
  EngineSourcePort port(*memory, guest);
  migration::MoveOptions options;
  options.mode = task.mode;
  options.channels = task.channels;
  FERRITE_ASSIGN_OR_RETURN(const auto source, migration::Source::Create(migration::AnyHost(), port, options, nullptr));
  guest.ForgetGaps();
  const CpuTime before = CpuTime::Now(&guest);
  Json line;
  if (address.kind == migration::Address::Kind::kRdma) {
    FERRITE_ASSIGN_OR_RETURN(migration::Verbs* const verbs, LoadVerbs());
    const auto opener = migration::OpenRdmaAt(address, *verbs, migration::RdmaOptions{}, RealClock());
    FERRITE_RETURN_IF_ERROR(source->Run(opener));
    AddRdma(opener->figures(), line);
  } else {
    FERRITE_RETURN_IF_ERROR(
        source->Run(migration::OpenAt(address, RealClock(), SecurityOf(task, migration::TlsSide::kSource))));
  }
  AddCpu("source", before, CpuTime::Now(&guest), line);
  AddReport(source->report(), line);
  Say("done", line);
  return absl::OkStatus();
}

absl::Status RunDestination(const SideTask& task) {
  FERRITE_ASSIGN_OR_RETURN(const migration::Address address, migration::ParseAddress(task.listen));
  FERRITE_ASSIGN_OR_RETURN(auto listener, migration::Listener::Create(address));
  EngineDestination machine(task.memory, task.plan);
  FERRITE_ASSIGN_OR_RETURN(const auto session, migration::Destination::Create(migration::AnyHost(), machine, {}));
  const std::string where = listener->address().ToString();
  FERRITE_ASSIGN_OR_RETURN(const auto acceptor, AcceptorAt(std::move(listener), task));
  Say("listening", {{"address", where}});
  const CpuTime before = CpuTime::Now(nullptr);
  FERRITE_RETURN_IF_ERROR(session->Run(*acceptor));
  EngineGuest& guest = *machine.guest();
  Json line;
  AddCpu("destination", before, CpuTime::Now(&guest), line);
  const migration::MoveReport report = session->report();
  line["copied_pages"] = report.copied_pages;
  line["moved_pages"] = report.moved_pages;
  if (!guest.AwaitWriteHere(kPatience)) {
    return absl::DeadlineExceededError("the guest that arrived does not write");
  }
  guest.Pause();
  const GuestFigures seen = guest.figures();
  line["writes"] = seen.writes;
  line["longest_gap_ms"] = static_cast<double>(seen.longest_gap) * kMs;
  line["arrival_gap_ms"] = static_cast<double>(seen.arrival_gap) * kMs;
  line["guest_waits"] = seen.waits;
  line["guest_wait_p50_us"] = static_cast<double>(seen.wait_p50) * kUs;
  line["guest_wait_p99_us"] = static_cast<double>(seen.wait_p99) * kUs;
  line["guest_wait_sum_ms"] = static_cast<double>(seen.wait_sum) * kMs;
  line["checked_pages"] = task.memory.bytes / kPageBytes;
  line["wrong_pages"] = seen.wrong_pages + guest.CheckAll();
  Say("done", line);
  return absl::OkStatus();
}

}  // namespace

Json ToJson(const SideTask& task) {
  return {{"bytes", task.memory.bytes},
          {"backing", std::string(MemoryBackingName(task.memory.backing))},
          {"thp", task.memory.thp},
          {"set_pages", task.plan.set_pages},
          {"hot_pages", task.plan.hot_pages},
          {"work", task.plan.work},
          {"zeros", task.plan.zeros},
          {"readers", task.plan.readers},
          {"mode", task.mode},
          {"channels", task.channels},
          {"listen", task.listen},
          {"tls_directory", task.tls_directory},
          {"quiet_ms", task.quiet_ms}};
}

absl::StatusOr<SideTask> ParseSideTask(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError("a side's task is no JSON object");
  }
  SideTask task;
  FERRITE_ASSIGN_OR_RETURN(task.memory.backing, ParseMemoryBacking(json.value("backing", std::string())));
  task.memory.bytes = json.value("bytes", uint64_t{0});
  task.memory.thp = json.value("thp", false);
  task.plan.set_pages = json.value("set_pages", uint64_t{0});
  task.plan.hot_pages = json.value("hot_pages", uint64_t{0});
  task.plan.work = json.value("work", GuestWork::kIdle);
  task.plan.zeros = json.value("zeros", false);
  task.plan.readers = json.value("readers", 0u);
  task.mode = json.value("mode", migration::MoveMode::kPrecopy);
  task.channels = json.value("channels", 1);
  task.listen = json.value("listen", std::string());
  task.tls_directory = json.value("tls_directory", std::string());
  task.quiet_ms = json.value("quiet_ms", 0u);
  return task;
}

int RunSide(const std::string& side, const std::string& text) {
  (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto task = ParseSideTask(text);
  const absl::Status status = !task.ok() ? task.status() : side == "source" ? RunSource(*task) : RunDestination(*task);
  if (!status.ok()) {
    Say("failed", {{"error", side + ": " + status.ToString()}});
    // The guest may wait for a page that never comes.
    _exit(1);
  }
  return 0;
}

}  // namespace ferrite
