// Logging: spdlog's default logger under short names. `app` chooses where it goes; libraries only write to it.
//
//   Log().info("cpu {}: {}", index, message);
//
// One line a record; where a text has several, the others are indented (vmm/app/logging.h). Never log on a path that
// the guest can drive at will without a limit (log once, or count).
#ifndef FERRITE_BASE_LOG_H_
#define FERRITE_BASE_LOG_H_

#include <spdlog/spdlog.h>

#include "absl/strings/string_view.h"

// absl::string_view, a Status's message() among them, may be an argument.
template <>
struct fmt::formatter<absl::string_view> : fmt::formatter<fmt::string_view> {
  auto format(absl::string_view text, fmt::format_context& context) const {
    return fmt::formatter<fmt::string_view>::format({text.data(), text.size()}, context);
  }
};

namespace ferrite {

inline spdlog::logger& Log() { return *spdlog::default_logger_raw(); }

}  // namespace ferrite

#endif  // FERRITE_BASE_LOG_H_
