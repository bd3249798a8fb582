#include "base/run_delay.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ferrite {

RunDelay::RunDelay(pid_t thread)
    : file_(open(absl::StrCat("/proc/self/task/", thread, "/schedstat").c_str(), O_RDONLY | O_CLOEXEC)) {}

absl::Duration RunDelay::Read() const {
  if (!file_.valid()) {
    return absl::ZeroDuration();
  }
  // Three numbers: time on a processor and time of waiting for one, in nanoseconds, and how often it got one.
  char text[96];
  const ssize_t n = pread(file_.get(), text, sizeof(text), 0);
  int64_t waited = 0;
  if (n > 0) {
    const absl::string_view words(text, static_cast<size_t>(n));
    const size_t begin = words.find(' ');
    if (begin != absl::string_view::npos) {
      const absl::string_view rest = words.substr(begin + 1);
      (void)absl::SimpleAtoi(rest.substr(0, rest.find(' ')), &waited);
    }
  }
  return absl::Nanoseconds(waited);
}

RunDelays::RunDelays(pid_t worker, const std::vector<pid_t>& vcpus) : worker_(worker) {
  for (const pid_t vcpu : vcpus) {
    vcpus_.emplace_back(vcpu);
  }
}

absl::Duration RunDelays::Read() const {
  absl::Duration longest;
  for (const Since& vcpu : vcpus_) {
    longest = std::max(longest, vcpu.Read());
  }
  // A thread that has ended tells nothing.
  return std::max(worker_.Read(), absl::ZeroDuration()) + longest;
}

}  // namespace ferrite
