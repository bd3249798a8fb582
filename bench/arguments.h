// The command line of a benchmark.
#ifndef FERRITE_BENCH_ARGUMENTS_H_
#define FERRITE_BENCH_ARGUMENTS_H_

#include <string>
#include <vector>

namespace ferrite {

// The arguments of main() as CLI11 takes them, from the last to the first. NAME=VALUE is --NAME=VALUE.
inline std::vector<std::string> ArgumentsOf(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    const std::string argument = argv[i];
    arguments.push_back(argument[0] != '-' && argument.find('=') != std::string::npos ? "--" + argument : argument);
  }
  return arguments;
}

}  // namespace ferrite

#endif  // FERRITE_BENCH_ARGUMENTS_H_
