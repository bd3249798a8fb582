#include "base/out_of_memory.h"

#include <kj/exception.h>

#include <new>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(10);

// Made before any thread is, and so before it is needed. Never destroyed.
const absl::Status& no_memory = *new absl::Status(
    absl::ResourceExhaustedError("this host has no memory left for it (a limit as `ulimit -v` may be the reason)"));

}  // namespace

absl::Status CatchOutOfMemory(absl::FunctionRef<absl::Status()> body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return no_memory;
  } catch (const kj::Exception& exception) {
    // Cap'n Proto's own, where calloc() failed.
    if (exception.getType() != kj::Exception::Type::OVERLOADED) {
      throw;
    }
    return no_memory;
  }
}

void IfThereIsMemory(absl::FunctionRef<void()> body) {
  (void)CatchOutOfMemory([&] {
    body();
    return absl::OkStatus();
  });
}

void UntilThereIsMemory(absl::FunctionRef<void()> body) {
  const auto done = [&] {
    body();
    return absl::OkStatus();
  };
  while (!CatchOutOfMemory(done).ok()) {
    absl::SleepFor(kPause);
  }
}

}  // namespace ferrite
