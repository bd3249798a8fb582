#include "base/memory_settings.h"

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace ferrite {

std::optional<std::string> ChosenOf(absl::string_view line) {
  const size_t open = line.find('[');
  const size_t close = line.find(']', open);
  return close == absl::string_view::npos ? std::optional<std::string>()
                                          : std::string(line.substr(open + 1, close - open - 1));
}

std::optional<std::string> HugePageChoice(absl::string_view file) {
  std::string line;
  std::getline(std::ifstream(absl::StrCat("/sys/kernel/mm/transparent_hugepage/", file)), line);
  return ChosenOf(line);
}

std::optional<uint64_t> MemInfoBytes(absl::string_view name) {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    if (absl::ConsumePrefix(&rest, name) && absl::ConsumePrefix(&rest, ":")) {
      uint64_t kib = 0;
      absl::ConsumeSuffix(&rest, "kB");
      if (absl::SimpleAtoi(absl::StripAsciiWhitespace(rest), &kib)) {
        return kib << 10;
      }
    }
  }
  return std::nullopt;
}

}  // namespace ferrite
