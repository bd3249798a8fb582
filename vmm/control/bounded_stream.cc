#include "vmm/control/bounded_stream.h"

#include <kj/common.h>
#include <kj/debug.h>

#include <cstdint>
#include <utility>

#include "base/clean_text.h"
#include "base/log.h"
#include "vmm/control/rpc_util.h"

namespace ferrite {
namespace {

using capnp::rpc::Message;
using Segments = kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>;

// kj's words for a failure are for whoever wrote the program, and have addresses of this process in them.
void FillFailure(capnp::rpc::Exception::Reader failure, capnp::rpc::Exception::Builder out) {
  Log().debug("control: the other side is told of a failure: {}", CleanText(FromKj(failure.getReason())));
  out.setType(failure.getType());
  out.setReason("it failed");
}

// The message in place of one that tells of a failure.
kj::Maybe<kj::Own<capnp::MallocMessageBuilder>> InOtherWords(Segments segments) {
  capnp::SegmentArrayMessageReader reader(segments, {.traversalLimitInWords = UINT64_MAX});
  const auto message = reader.getRoot<Message>();
  const bool failed = message.isReturn() && message.getReturn().isException();
  if (!message.isAbort() && !failed) {
    return nullptr;
  }
  auto other = kj::heap<capnp::MallocMessageBuilder>();
  if (failed) {
    auto answer = other->initRoot<Message>().initReturn();
    answer.setAnswerId(message.getReturn().getAnswerId());
    answer.setReleaseParamCaps(message.getReturn().getReleaseParamCaps());
    FillFailure(message.getReturn().getException(), answer.initException());
  } else {
    FillFailure(message.getAbort(), other->initRoot<Message>().initAbort());
  }
  return kj::mv(other);
}

}  // namespace

BoundedStream::BoundedStream(kj::Own<kj::AsyncCapabilityStream> stream, Limits limits,
                             kj::Function<void(const kj::Exception&)> failed)
    : stream_(kj::mv(stream)), messages_(*stream_), limits_(kj::mv(limits)), failed_(kj::mv(failed)) {}

kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> BoundedStream::tryReadMessage(kj::ArrayPtr<kj::AutoCloseFd> fds,
                                                                                 capnp::ReaderOptions options,
                                                                                 kj::ArrayPtr<capnp::word> scratch) {
  using Result = kj::Maybe<capnp::MessageReaderAndFds>;
  if (!reading_) {
    auto pair = kj::newPromiseAndFulfiller<Result>();
    end_of_reading_ = kj::mv(pair.fulfiller);
    return kj::mv(pair.promise);
  }
  if (!limits_.take_descriptors) {
    fds = nullptr;
  }
  return WhenNothingIsWritten()
      .then([this, fds, options, scratch] { return messages_.tryReadMessage(fds, options, scratch); })
      .then([this](Result&& result) -> Result {
        KJ_IF_MAYBE (message, result) {
          Count(*message->reader);
        } else {
          Hang(nullptr);
        }
        return kj::mv(result);
      })
      .catch_([this](kj::Exception&& exception) -> Result {
        Hang(&exception);
        kj::throwFatalException(kj::mv(exception));
      });
}

kj::Promise<void> BoundedStream::writeMessage(kj::ArrayPtr<const int> fds,
                                              kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
  KJ_IF_MAYBE (other, InOtherWords(segments)) {
    const auto words = (*other)->getSegmentsForOutput();
    return Counted(kj::evalNow([&] { return messages_.writeMessage(nullptr, words); }).attach(kj::mv(*other)));
  }
  return Counted(kj::evalNow([&] { return messages_.writeMessage(fds, segments); }));
}

kj::Promise<void> BoundedStream::writeMessages(
    kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) {
  // The RPC system of this library's version writes them one by one.
  KJ_FAIL_REQUIRE("several messages at once", messages.size());
}

kj::Promise<void> BoundedStream::WhenNothingIsWritten() {
  if (writes_ == 0) {
    return kj::READY_NOW;
  }
  auto pair = kj::newPromiseAndFulfiller<void>();
  waiting_reader_ = kj::mv(pair.fulfiller);
  return kj::mv(pair.promise);
}

kj::Promise<void> BoundedStream::Counted(kj::Promise<void> write) {
  ++writes_;
  if (limits_.read_to_the_end) {
    // The RPC system stops reading when a write fails.
    write = write.catch_([](kj::Exception&& exception) {
      if (exception.getType() != kj::Exception::Type::DISCONNECTED) {
        kj::throwFatalException(kj::mv(exception));
      }
    });
  }
  return write.attach(kj::defer([this] {
    if (--writes_ == 0) {
      KJ_IF_MAYBE (reader, waiting_reader_) {
        (*reader)->fulfill();
      }
      waiting_reader_ = nullptr;
    }
  }));
}

void BoundedStream::HangIfSilent() {
  if (!heard_) {
    Hang(nullptr);
  }
}

void BoundedStream::Count(capnp::MessageReader& message) {
  heard_ = true;
  const auto root = message.getRoot<capnp::rpc::Message>();
  limits_.check(root);
  switch (root.which()) {
    case capnp::rpc::Message::BOOTSTRAP:
    case capnp::rpc::Message::CALL:
      ++open_calls_;
      KJ_REQUIRE(open_calls_ <= limits_.max_open_calls, "too many unfinished calls");
      break;
    case capnp::rpc::Message::FINISH:
      open_calls_ -= open_calls_ > 0 ? 1 : 0;
      break;
    default:
      break;
  }
}

void BoundedStream::Hang(const kj::Exception* reason) {
  if (reason != nullptr) {
    failed_(*reason);
  }
  // The RPC system says goodbye before it lets go; a client that reads nothing would hold the connection for ever.
  stream_->shutdownWrite();
  stream_->abortRead();
  KJ_IF_MAYBE (end, end_of_reading_) {
    (*end)->fulfill(nullptr);
  }
}

}  // namespace ferrite
