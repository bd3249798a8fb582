// QEMU's machine protocol (QMP), as much of it as benchmarks need.
#ifndef FERRITE_BENCH_QMP_CLIENT_H_
#define FERRITE_BENCH_QMP_CLIENT_H_

#include <deque>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"

namespace ferrite {

// One thread.
class QmpClient {
 public:
  // Listens at `path`, before a QEMU is started that connects: its argument is "-qmp unix:PATH".
  static absl::StatusOr<std::unique_ptr<QmpClient>> Listen(const std::string& path);
  // Waits for the QEMU.
  absl::Status Accept(absl::Duration limit);
  // What it answers; an error with its words when it refuses. Events meanwhile are kept.
  absl::StatusOr<nlohmann::json> Execute(const std::string& command,
                                         nlohmann::json arguments = nlohmann::json::object());
  // The next event that is `wanted`; those before it are dropped.
  absl::StatusOr<nlohmann::json> WaitForEvent(const std::function<absl::StatusOr<bool>(const nlohmann::json&)>& wanted,
                                              absl::Duration limit);

 private:
  explicit QmpClient(Fd listener) : listener_(std::move(listener)) {}

  absl::StatusOr<nlohmann::json> Read(MonotonicTime deadline);

  Fd listener_;
  Fd socket_;
  std::string heard_;
  std::deque<nlohmann::json> events_;
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_QMP_CLIENT_H_
