// The seam between kj (exceptions, its own log) and the rest (absl::Status, Log()).
#ifndef FERRITE_VMM_CONTROL_RPC_UTIL_H_
#define FERRITE_VMM_CONTROL_RPC_UTIL_H_

#include <kj/exception.h>
#include <kj/string.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/control.capnp.h"

namespace ferrite {

inline kj::StringPtr ToKj(const std::string& text) { return {text.c_str(), text.size()}; }
inline absl::string_view FromKj(kj::StringPtr text) { return {text.cStr(), text.size()}; }

// The first line of what went wrong, without the source position that kj puts before it, in clean words: the other
// side's may be in it.
std::string Summary(const kj::Exception& exception);

void FillError(const absl::Status& status, control::Error::Builder error);
// In clean words. A code that is none of absl's is UNKNOWN.
absl::Status ReadError(control::Error::Reader error);

// A list of nothing costs the other side no bytes, however long it says it is.
inline constexpr uint32_t kMostOfAList = 64;

// Calls `read` with each of the first kMostOfAList.
template <typename List, typename Read>
void ReadList(const List& list, Read read) {
  for (uint32_t i = 0; i < std::min<uint32_t>(list.size(), kMostOfAList); ++i) {
    read(list[i]);
  }
}

// While it lives, what kj logs on this thread goes to Log() at debug level in place of standard error. On the stack.
class KjLogRedirect final : public kj::ExceptionCallback {
 public:
  void logMessage(kj::LogSeverity severity, const char* file, int line, int context_depth, kj::String&& text) override;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_RPC_UTIL_H_
