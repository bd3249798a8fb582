// The keys with which a person leaves a console: Ctrl-a and another.
#ifndef FERRITE_VMM_CONSOLE_ESCAPE_FILTER_H_
#define FERRITE_VMM_CONSOLE_ESCAPE_FILTER_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace ferrite {

// Ctrl-a x leaves, Ctrl-a h shows help, Ctrl-a Ctrl-a is one Ctrl-a for the guest; any other key after Ctrl-a is passed
// on together with it.
class EscapeFilter {
 public:
  struct Result {
    std::string to_guest;
    bool help = false;
    bool leave = false;  // what follows it is dropped
  };
  Result Feed(std::span<const uint8_t> typed);

 private:
  bool escaped_ = false;
};

// The text of Ctrl-a h. `leave_effect` says what Ctrl-a x does here: "stop the machine".
std::string EscapeHelp(absl::string_view leave_effect);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONSOLE_ESCAPE_FILTER_H_
