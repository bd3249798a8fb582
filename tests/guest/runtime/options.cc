#include "tests/guest/runtime/options.h"

#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/platform.h"

namespace guest {
namespace {

bool IsEnd(char c) { return c == '\0' || c == ' '; }

// The value's first character, or null.
const char* Find(const char* name) {
  const char* at = CommandLine();
  while (*at != '\0') {
    const char* left = name;
    while (*left != '\0' && *at == *left) {
      ++at;
      ++left;
    }
    if (*left == '\0' && *at == '=') {
      return at + 1;
    }
    while (!IsEnd(*at)) {
      ++at;
    }
    while (*at == ' ') {
      ++at;
    }
  }
  return nullptr;
}

bool Same(const char* word, const char* text) {
  while (*text != '\0' && *word == *text) {
    ++word;
    ++text;
  }
  return *text == '\0' && IsEnd(*word);
}

}  // namespace

uint64_t NumberOption(const char* name, uint64_t otherwise) {
  const char* at = Find(name);
  if (at == nullptr) {
    return otherwise;
  }
  uint64_t value = 0;
  if (at[0] == '0' && at[1] == 'x') {
    for (at += 2;; ++at) {
      if (*at >= '0' && *at <= '9') {
        value = value << 4 | static_cast<uint64_t>(*at - '0');
      } else if (*at >= 'a' && *at <= 'f') {
        value = value << 4 | static_cast<uint64_t>(*at - 'a' + 10);
      } else {
        break;
      }
    }
  } else {
    for (; *at >= '0' && *at <= '9'; ++at) {
      value = value * 10 + static_cast<uint64_t>(*at - '0');
    }
  }
  switch (*at) {
    case 'K':
      value <<= 10, ++at;
      break;
    case 'M':
      value <<= 20, ++at;
      break;
    case 'G':
      value <<= 30, ++at;
      break;
  }
  if (!IsEnd(*at)) {
    Fail("option-is-no-number");
  }
  return value;
}

bool HasOption(const char* name) { return Find(name) != nullptr; }

bool OptionIs(const char* name, const char* value, const char* otherwise) {
  const char* word = Find(name);
  return Same(word != nullptr ? word : otherwise, value);
}

}  // namespace guest
