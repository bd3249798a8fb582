// A result that another thread tells a kj event loop.
#ifndef FERRITE_VMM_CONTROL_AWAITED_RESULT_H_
#define FERRITE_VMM_CONTROL_AWAITED_RESULT_H_

#include <kj/async.h>

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"

namespace ferrite {

struct AwaitedResult {
  kj::Promise<absl::Status> promise;
  // Called once at the most, on any thread, also when nobody waits any more. Copies are the same; when the last one
  // goes uncalled the promise breaks.
  std::function<void(const absl::Status& result)> done;
};

// On a thread with a kj event loop.
inline AwaitedResult MakeAwaitedResult() {
  auto pair = kj::newPromiseAndCrossThreadFulfiller<void>();
  const auto result = std::make_shared<absl::Status>();
  const auto fulfiller = std::make_shared<kj::Own<kj::CrossThreadPromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
  return {.promise = pair.promise.then([result] { return std::move(*result); }),
          .done = [result, fulfiller](const absl::Status& told) {
            // Not shared with who tells.
            *result = absl::Status(told.code(), told.message());
            (*fulfiller)->fulfill();
          }};
}

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_AWAITED_RESULT_H_
