#include "vmm/console/escape_filter.h"

#include "absl/strings/str_cat.h"

namespace ferrite {

namespace {
constexpr char kCtrlA = 1;
}

EscapeFilter::Result EscapeFilter::Feed(std::span<const uint8_t> typed) {
  Result result;
  for (const uint8_t byte : typed) {
    const char c = static_cast<char>(byte);
    if (!escaped_) {
      escaped_ = c == kCtrlA;
      if (!escaped_) {
        result.to_guest += c;
      }
      continue;
    }
    escaped_ = false;
    if (c == 'x' || c == 'X') {
      result.leave = true;
      return result;
    }
    if (c == 'h' || c == 'H' || c == '?') {
      result.help = true;
      continue;
    }
    result.to_guest += kCtrlA;
    if (c != kCtrlA) {
      result.to_guest += c;
    }
  }
  return result;
}

std::string EscapeHelp(absl::string_view leave_effect) {
  return absl::StrCat("\r\n[ferrite] Ctrl-a x: ", leave_effect,
                      "   Ctrl-a h: this help   Ctrl-a Ctrl-a: send Ctrl-a to the guest\r\n");
}

}  // namespace ferrite
