// Allocations that fail: exceptions of the libraries that become a Status where a thread's work begins.
#ifndef FERRITE_BASE_OUT_OF_MEMORY_H_
#define FERRITE_BASE_OUT_OF_MEMORY_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace ferrite {

// What `body` returns; RESOURCE_EXHAUSTED when an allocation in it failed, which is made without memory. `body` leaves
// what it was at as its destructors do.
absl::Status CatchOutOfMemory(absl::FunctionRef<absl::Status()> body);

// Does `body`, or as much of it as there is memory for: words that nothing depends on.
void IfThereIsMemory(absl::FunctionRef<void()> body);

// Repeats `body` until no allocation in it fails, 10 ms apart: for what must be done, and may be done in part before.
void UntilThereIsMemory(absl::FunctionRef<void()> body);

}  // namespace ferrite

#endif  // FERRITE_BASE_OUT_OF_MEMORY_H_
