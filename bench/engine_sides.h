// The two processes of one move of engine_bench, and the words between them and the benchmark that started them.
//
// Each is told its part as one argument (JSON), and says lines of JSON on standard output, the last of them "done" or
// "failed":
//   destination:  {"said":"listening","address":"tcp:127.0.0.1:41234"}  ...  {"said":"done", figures}
//   source:       {"said":"running", figures}, then reads the destination's address, a line, and moves
#ifndef FERRITE_BENCH_ENGINE_SIDES_H_
#define FERRITE_BENCH_ENGINE_SIDES_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "bench/engine_guest.h"
#include "bench/engine_ports.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"

namespace ferrite {

// What both processes of a move are told.
struct SideTask {
  EngineMemory memory;
  GuestPlan plan;
  migration::MoveMode mode = migration::MoveMode::kPrecopy;
  int channels = 1;
  std::string listen;         // the destination's
  std::string tls_directory;  // empty: no TLS
  uint32_t quiet_ms = 0;      // how long the guest is watched at the source before it moves
};

nlohmann::json ToJson(const SideTask& task);
absl::StatusOr<SideTask> ParseSideTask(const std::string& text);

// main() of the processes; `side` is "source" or "destination". They end with the process that started them.
int RunSide(const std::string& side, const std::string& task);

}  // namespace ferrite

#endif  // FERRITE_BENCH_ENGINE_SIDES_H_
