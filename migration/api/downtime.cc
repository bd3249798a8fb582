#include "migration/api/downtime.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"

namespace ferrite::migration {

std::optional<absl::string_view> WhatTookTooLong(const MoveReport& report) {
  // Behind the destination's word that the guest runs its vCPUs may still wait.
  const absl::Duration standstill = report.downtime + report.entry_wait;
  if (report.downtime_limit == absl::ZeroDuration() || standstill <= report.downtime_limit) {
    return std::nullopt;
  }
  const absl::Duration waited = report.source_wait + report.destination_wait + report.entry_wait;
  if (waited > standstill - waited) {
    return "waiting for a processor";
  }
  using Part = std::pair<absl::Duration, absl::string_view>;
  return std::max({Part(report.stop, "stop"), Part(report.last_pages, "last pages"), Part(report.state, "state"),
                   Part(report.send, "send"), Part(report.load, "load"), Part(report.run, "run")})
      .second;
}

}  // namespace ferrite::migration
