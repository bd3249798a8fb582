#include "vmm/machine/device_balloon_port.h"

#include <string>

#include "absl/strings/string_view.h"

namespace ferrite {

BalloonFigures DeviceBalloonPort::Figures() const {
  BalloonFigures figures;
  figures.target_bytes = balloon_.target();
  figures.actual_bytes = balloon_.actual();
  figures.reclaimed_bytes = balloon_.reclaimed();
  if (const auto statistics = balloon_.statistics(); statistics.has_value()) {
    figures.statistics_time = statistics->time;
    for (const auto& value : statistics->values) {
      if (const absl::string_view name = BalloonStatisticName(value.tag); !name.empty()) {
        figures.statistics.emplace_back(std::string(name), value.value);
      }
    }
  }
  return figures;
}

}  // namespace ferrite
