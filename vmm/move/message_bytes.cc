#include "vmm/move/message_bytes.h"

#include <capnp/serialize.h>
#include <kj/exception.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/out_of_memory.h"

namespace ferrite {

std::vector<uint8_t> EncodeBytes(capnp::MessageBuilder& message) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  const auto bytes = words.asBytes();
  return {bytes.begin(), bytes.end()};
}

absl::Status DecodeBytes(std::span<const uint8_t> bytes, absl::string_view what, uint64_t reads,
                         absl::FunctionRef<absl::Status(capnp::MessageReader&)> use) {
  if (bytes.size() % sizeof(capnp::word) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the machine's ", what, " is no whole number of words"));
  }
  kj::Array<capnp::word> words = kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word));
  std::ranges::copy(bytes, words.asBytes().begin());
  capnp::ReaderOptions limits;
  limits.traversalLimitInWords = 1024 + reads * words.size();
  limits.nestingLimit = 16;
  absl::Status status;
  const kj::Maybe<kj::Exception> failure = kj::runCatchingExceptions([&] {
    // A lack of memory here is nothing that the bytes did.
    status = CatchOutOfMemory([&] {
      capnp::FlatArrayMessageReader reader(words, limits);
      return use(reader);
    });
  });
  KJ_IF_MAYBE (exception, failure) {
    return absl::InvalidArgumentError(
        absl::StrCat("the machine's ", what, " is damaged: ", CleanText(exception->getDescription().cStr())));
  }
  return status;
}

}  // namespace ferrite
