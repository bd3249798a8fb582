#include "migration/channel/drop_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/monotonic.h"

namespace ferrite::migration {

void DropLog::Log(const std::string& who, absl::string_view why) {
  Write(absl::StrCat("dropped a connection from ", who, ": ", CleanText(why)));
}

void DropLog::LogRefusal(const std::string& who, absl::string_view why) {
  Write(absl::StrCat("waits on, having refused the machine from ", who, ": ", CleanText(why)));
}

void DropLog::Tell(absl::string_view words) { Write(CleanText(words)); }

void DropLog::Write(absl::string_view words) {
  if (const std::optional<uint64_t> hidden = Take(host_.clock.Now()); hidden.has_value()) {
    host_.log.Warn(absl::StrCat("receive: ", words,
                                *hidden > 0 ? absl::StrCat(" (and ", *hidden, " others before)") : std::string()));
  }
}

std::optional<uint64_t> DropLog::Take(MonotonicTime now) {
  const absl::MutexLock lock(&mutex_);
  if (now >= paid_ + kPause) {
    credit_ = std::min(credit_ + 1, kMost);
    paid_ = now;
  }
  if (credit_ == 0) {
    ++hidden_;
    return std::nullopt;
  }
  --credit_;
  return std::exchange(hidden_, 0);
}

}  // namespace ferrite::migration
