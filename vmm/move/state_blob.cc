#include "vmm/move/state_blob.h"

#include <capnp/serialize.h>
#include <kj/exception.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"

namespace ferrite {

std::vector<uint8_t> EncodeState(capnp::MessageBuilder& message) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  const auto bytes = words.asBytes();
  return {bytes.begin(), bytes.end()};
}

absl::Status DecodeState(std::span<const uint8_t> blob,
                         const std::function<absl::Status(state::Machine::Reader)>& use) {
  if (blob.size() % sizeof(capnp::word) != 0) {
    return absl::InvalidArgumentError("the machine's state is no whole number of words");
  }
  kj::Array<capnp::word> words = kj::heapArray<capnp::word>(blob.size() / sizeof(capnp::word));
  std::ranges::copy(blob, words.asBytes().begin());
  // Reading it twice is enough; a message that makes much of little is refused.
  capnp::ReaderOptions limits;
  limits.traversalLimitInWords = 1024 + 4 * words.size();
  limits.nestingLimit = 16;
  absl::Status status;
  const kj::Maybe<kj::Exception> failure = kj::runCatchingExceptions([&] {
    capnp::FlatArrayMessageReader reader(words, limits);
    status = use(reader.getRoot<state::Machine>());
  });
  KJ_IF_MAYBE (exception, failure) {
    return absl::InvalidArgumentError(
        absl::StrCat("the machine's state is damaged: ", CleanText(exception->getDescription().cStr())));
  }
  return status;
}

}  // namespace ferrite
