#include "migration/api/mirror_options.h"

#include <bit>

#include "absl/strings/str_cat.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kLeastBuffer = uint64_t{1} << 20;
constexpr uint64_t kMostBuffer = uint64_t{1} << 30;
constexpr uint32_t kMostInFlight = 256;

}  // namespace

absl::string_view CopyModeName(CopyMode mode) {
  switch (mode) {
    case CopyMode::kBackground:
      return "background";
    case CopyMode::kWriteBlocking:
      return "write-blocking";
  }
  return "?";
}

absl::string_view ErrorPolicyName(ErrorPolicy policy) {
  switch (policy) {
    case ErrorPolicy::kReport:
      return "report";
    case ErrorPolicy::kIgnore:
      return "ignore";
    case ErrorPolicy::kStop:
      return "stop";
    case ErrorPolicy::kEnospc:
      return "enospc";
  }
  return "?";
}

absl::string_view MirrorStateName(MirrorState state) {
  switch (state) {
    case MirrorState::kRunning:
      return "running";
    case MirrorState::kReady:
      return "ready";
    case MirrorState::kPaused:
      return "paused";
    case MirrorState::kCompleting:
      return "completing";
    case MirrorState::kCompleted:
      return "completed";
    case MirrorState::kCancelled:
      return "cancelled";
    case MirrorState::kFailed:
      return "failed";
  }
  return "?";
}

bool IsFinal(MirrorState state) {
  return state == MirrorState::kCompleted || state == MirrorState::kCancelled || state == MirrorState::kFailed;
}

absl::Status CheckMirrorOptions(const MirrorOptions& options) {
  if (!std::has_single_bit(options.granularity) || options.granularity < kLeastGranularity ||
      options.granularity > kMostGranularity) {
    return absl::InvalidArgumentError(
        absl::StrCat("granularity ", options.granularity, ": a power of two from 4 KiB to 64 MiB"));
  }
  if (options.buffer_bytes < kLeastBuffer || options.buffer_bytes > kMostBuffer) {
    return absl::InvalidArgumentError(absl::StrCat("buffer ", options.buffer_bytes, ": 1 MiB to 1 GiB"));
  }
  if (options.buffer_bytes < options.granularity) {
    return absl::InvalidArgumentError(absl::StrCat(
        "buffer ", options.buffer_bytes, ": at least one chunk, as the granularity is ", options.granularity));
  }
  if (options.in_flight == 0 || options.in_flight > kMostInFlight) {
    return absl::InvalidArgumentError(absl::StrCat("in-flight ", options.in_flight, ": 1 to ", kMostInFlight));
  }
  if (options.downtime_limit < absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("downtime-limit ", absl::FormatDuration(options.downtime_limit), ": not below 0"));
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
