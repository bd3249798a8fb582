// How long it takes to pause and to resume a machine, and what the guest sees of it. The peer is what the host needs at
// least: a signal to a thread that runs, and the word back from it.

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>

#include "absl/strings/str_format.h"
#include "bench/samples.h"
#include "bench/where.h"
#include "tests/integration/payload_machine.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr double kMicro = 1e6;

std::atomic<uint64_t> signals_seen;

// A thread that spins is interrupted by a signal; until its handler has run.
Samples MeasureSignals(int rounds) {
  struct sigaction action = {};
  action.sa_handler = [](int) { signals_seen.fetch_add(1); };
  sigaction(SIGUSR2, &action, nullptr);
  std::atomic<bool> stop = false;
  std::thread spinner([&] {
    while (!stop.load(std::memory_order_relaxed)) {
    }
  });
  Samples samples;
  for (int i = 0; i < rounds; ++i) {
    const uint64_t before = signals_seen.load();
    const double begin = Now();
    pthread_kill(spinner.native_handle(), SIGUSR2);
    while (signals_seen.load() == before) {
      std::this_thread::yield();
    }
    samples.Add((Now() - begin) * kMicro);
  }
  stop = true;
  spinner.join();
  return samples;
}

int MeasurePauses(uint32_t cpus, int rounds) {
  MachineConfig config;
  config.cpus = cpus;
  config.memory_bytes = 128 * kMiB;
  config.command_line = "mode=random set=64M report_ms=1000";
  auto machine = PayloadMachine::Run("dirty", config);
  if (!machine.ok() || !(*machine)->WaitFor("filled").ok()) {
    std::fprintf(stderr, "cannot run the payload: %s\n", machine.status().ToString().c_str());
    return 1;
  }
  Samples pause;
  Samples resume;
  for (int i = 0; i < rounds; ++i) {
    const double begin = Now();
    if (!(*machine)->machine().Pause().ok()) {
      return 1;
    }
    const double paused = Now();
    if (!(*machine)->machine().Resume().ok()) {
      return 1;
    }
    resume.Add((Now() - paused) * kMicro);
    pause.Add((paused - begin) * kMicro);
    // Some work in between, as in life.
    const double until = Now() + 0.002;
    while (Now() < until) {
      std::this_thread::yield();
    }
  }
  (*machine)->machine().Stop();
  const std::string peer = "a signal to a running thread and back";
  PrintRatio(absl::StrFormat("pause, %d vCPUs that write memory", cpus), pause, peer, MeasureSignals(rounds), "us");
  absl::PrintF("resume, %d vCPUs: %s\n", cpus, resume.Summary("us"));
  return 0;
}

}  // namespace
}  // namespace ferrite

int main(int argc, char** argv) {
  if (const auto status = ferrite::CannotRunHere("pause_bench")) {
    return *status;
  }
  const int rounds = ferrite::IntegerArgument(argc, argv, "rounds", 500);
  absl::PrintF("inputs: %d rounds, 128 MiB, of which 64 MiB are written at random; %s\n", rounds,
               ferrite::WhereItRuns(ferrite::Needs::kKvm));
  int status = 0;
  for (const uint32_t cpus : {1u, 2u}) {
    status |= ferrite::MeasurePauses(cpus, rounds);
  }
  return status;
}
