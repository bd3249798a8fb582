#include "vmm/app/progress_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "vmm/app/machine_json.h"

namespace ferrite {

ProgressLine::ProgressLine(bool json) : json_(json), live_(!json && isatty(STDOUT_FILENO) != 0) {}

void ProgressLine::Show(bool is_news, absl::FunctionRef<std::string()> text,
                        absl::FunctionRef<nlohmann::ordered_json()> json) {
  if (json_) {
    PrintJson(json(), /*indented=*/false);
  } else if (live_) {
    fmt::print("\r\x1b[K{}", text());
    drawn_ = true;
  } else if (is_news) {
    fmt::print("{}\n", text());
  }
  // Whoever reads a pipe wants each line when it happens.
  (void)fflush(stdout);
}

void ProgressLine::Finish() const {
  if (drawn_) {
    fmt::print("\r\x1b[K");
    (void)fflush(stdout);
  }
}

}  // namespace ferrite
