// The ferrite command line: words in, one checked command out.
#ifndef FERRITE_VMM_APP_COMMAND_LINE_H_
#define FERRITE_VMM_APP_COMMAND_LINE_H_

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "vmm/app/command.h"

namespace ferrite {

// The command line is done with: print `text` to standard output, or with an exit code that is not 0 to standard error.
struct ParseEnd {
  int exit_code;
  std::string text;
};

// `words` without the program's name.
std::variant<std::unique_ptr<Command>, ParseEnd> ParseCommandLine(std::vector<std::string> words);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_COMMAND_LINE_H_
