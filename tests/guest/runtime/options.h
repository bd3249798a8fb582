// The kernel command line: NAME=VALUE words.
#ifndef FERRITE_TESTS_GUEST_RUNTIME_OPTIONS_H_
#define FERRITE_TESTS_GUEST_RUNTIME_OPTIONS_H_

#include <cstdint>

namespace guest {

// A decimal number or one in hex with 0x, with K, M or G (powers of 1024) after it.
uint64_t NumberOption(const char* name, uint64_t otherwise);
bool HasOption(const char* name);
// Whether the command line has NAME=VALUE; when it has no NAME, whether VALUE is `otherwise`.
bool OptionIs(const char* name, const char* value, const char* otherwise);

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_OPTIONS_H_
