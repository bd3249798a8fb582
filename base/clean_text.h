// Words from outside (a peer, a guest, a client, a server, a file), as they may be shown to people.
//
// A terminal obeys control characters: who shows a text that others wrote, puts it into a Status or into a log cleans
// it where it comes in. What is a value (a path that is opened, a command line that a guest gets) stays as it is, or is
// refused when it is not clean.
#ifndef FERRITE_BASE_CLEAN_TEXT_H_
#define FERRITE_BASE_CLEAN_TEXT_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace ferrite {

// What a few sentences need.
inline constexpr size_t kMaxCleanText = 1024;
// What the longest path or command line needs, and words about it.
inline constexpr size_t kMaxLongText = 16 << 10;

// One line of at most `most` bytes of valid UTF-8, which a terminal and a log show as text: each byte that is no part
// of a character, each control character and each one that changes lines or their direction becomes '?'. What is longer
// ends in "...". `text` may be anything.
std::string CleanText(absl::string_view text, size_t most = kMaxCleanText);

// The same of several lines, which stay apart: '\n' is kept.
std::string CleanLines(absl::string_view text, size_t most);

// Whether CleanText() has nothing to replace in `text`, however long it is.
bool IsClean(absl::string_view text);

}  // namespace ferrite

#endif  // FERRITE_BASE_CLEAN_TEXT_H_
