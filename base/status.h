// Errors: errno becomes an absl::Status in one place, and two macros pass a Status on.
//
// A message names the object and what was tried, then the errno's text: "open /dev/kvm: Permission denied".
#ifndef FERRITE_BASE_STATUS_H_
#define FERRITE_BASE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// The Status for `error` (an errno value) of the operation `what`: "<what>: <text of the errno>", and what to do about
// it where that is the same whatever was tried (a limit of this process). Never OK, and never UNAVAILABLE or
// OUT_OF_RANGE (UNKNOWN instead): of these a move takes it that its connection was lost, and looks for the other side
// again; a disk's EFBIG or ENOLINK does not come back with a connection.
absl::Status ErrnoStatus(int error, absl::string_view what);

// The same for the calling thread's errno; call it before anything that may change errno.
absl::Status ErrnoStatus(absl::string_view what);

// The same of a connection that was tried: UNAVAILABLE where nobody takes it (ECONNREFUSED, EHOSTUNREACH).
absl::Status ConnectStatus(int error, absl::string_view what);

// `status` with another message: its code and its payloads stay. It is no OK.
absl::Status Reworded(const absl::Status& status, absl::string_view message);

// `status` with "<context>: " put before its message; OK stays OK.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace ferrite

#define FERRITE_CONCAT_INNER(a, b) a##b
#define FERRITE_CONCAT(a, b) FERRITE_CONCAT_INNER(a, b)

// Returns the Status of `expression` from the enclosing function unless it is OK.
#define FERRITE_RETURN_IF_ERROR(expression)                                 \
  do {                                                                      \
    if (absl::Status ferrite_status = (expression); !ferrite_status.ok()) { \
      return ferrite_status;                                                \
    }                                                                       \
  } while (false)

// `FERRITE_ASSIGN_OR_RETURN(auto x, F());` returns F()'s Status from the enclosing function unless it holds a value.
#define FERRITE_ASSIGN_OR_RETURN(lhs, expression) \
  FERRITE_ASSIGN_OR_RETURN_INNER(FERRITE_CONCAT(ferrite_or_, __LINE__), lhs, expression)
#define FERRITE_ASSIGN_OR_RETURN_INNER(or_value, lhs, expression) \
  auto or_value = (expression);                                   \
  if (!or_value.ok()) {                                           \
    return std::move(or_value).status();                          \
  }                                                               \
  lhs = *std::move(or_value)

// Aborts with the condition's text when one of our own invariants is broken. Never for what a guest, a peer, a client
// or a file did: that is a Status.
#define FERRITE_CHECK(condition)                                        \
  do {                                                                  \
    if (!(condition)) [[unlikely]] {                                    \
      ::ferrite::internal::CheckFailed(#condition, __FILE__, __LINE__); \
    }                                                                   \
  } while (false)

namespace ferrite::internal {
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);
}  // namespace ferrite::internal

#endif  // FERRITE_BASE_STATUS_H_
