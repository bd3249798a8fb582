// Where Log() goes in this process.
#ifndef FERRITE_VMM_APP_LOGGING_H_
#define FERRITE_VMM_APP_LOGGING_H_

#include <string>

#include "absl/status/status.h"
#include "base/fd.h"

namespace ferrite {

// Warnings and errors to standard error, each as one line "ferrite: warning: ...". Lines that follow the first of a
// text, here and in a file, are indented; what a terminal would obey is replaced (base/clean_text.h).
void LogToStandardError();

// Everything from info on to the file `path`, too, with times; appended and flushed line by line. What cannot be
// written is lost, but no more: the file goes on once it can, with a line that says how many messages are missing, and
// standard error is told when it begins.
absl::Status LogToFileToo(const std::string& path);
// The same to a regular file that is open to be appended to; `path` is what it is called.
void LogToFileToo(Fd file, const std::string& path);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_LOGGING_H_
