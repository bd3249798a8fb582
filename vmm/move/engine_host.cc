#include "vmm/move/engine_host.h"

#include "absl/strings/string_view.h"
#include "base/log.h"
#include "base/log_sink.h"
#include "base/out_of_memory.h"
#include "base/thread_maker.h"

namespace ferrite {
namespace {

spdlog::level::level_enum LevelOf(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

class MonitorLog final : public LogSink {
 public:
  void Write(LogLevel level, absl::string_view line) override {
    IfThereIsMemory([&] { Log().log(LevelOf(level), spdlog::string_view_t(line.data(), line.size())); });
  }
};

struct Monitor {
  MonitorLog log;
  ThreadMaker threads;
  const migration::Host host{.log = log, .threads = threads};
};

}  // namespace

const migration::Host& EngineHost() {
  // Threads may log as long as the process is there.
  static Monitor& monitor = *new Monitor;
  return monitor.host;
}

}  // namespace ferrite
