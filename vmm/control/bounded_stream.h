// The message stream of an RPC connection with limits on what the other side can make us keep.
#ifndef FERRITE_VMM_CONTROL_BOUNDED_STREAM_H_
#define FERRITE_VMM_CONTROL_BOUNDED_STREAM_H_

#include <capnp/message.h>
#include <capnp/rpc.capnp.h>
#include <capnp/serialize-async.h>
#include <kj/async-io.h>
#include <kj/async.h>

#include <cstddef>

namespace ferrite {

// The RPC system queues every answer until the other side reads it and keeps it until that says `finish`. This stream
// reads no message while one is being written, and fails when more than `max_open_calls` calls are unfinished, so that
// both are bounded. It tells the other side that something failed, and not what kj knows of it. kj-style: exceptions,
// one thread.
class BoundedStream final : public capnp::MessageStream {
 public:
  struct Limits {
    size_t max_open_calls = 0;
    bool take_descriptors = false;  // else the kernel drops those that come with a message
    // That the other side reads no more does not end the stream: what it has sent before is still read.
    bool read_to_the_end = false;
    // Throws at a message that may not come here.
    kj::Function<void(capnp::rpc::Message::Reader)> check = [](capnp::rpc::Message::Reader) {};
  };

  // `failed` gets what ended the stream, unless the other side simply closed it.
  BoundedStream(kj::Own<kj::AsyncCapabilityStream> stream, Limits limits,
                kj::Function<void(const kj::Exception&)> failed);

  kj::Promise<kj::Maybe<capnp::MessageReaderAndFds>> tryReadMessage(kj::ArrayPtr<kj::AutoCloseFd> fds,
                                                                    capnp::ReaderOptions options,
                                                                    kj::ArrayPtr<capnp::word> scratch) override;
  kj::Promise<void> writeMessage(kj::ArrayPtr<const int> fds,
                                 kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) override;
  kj::Promise<void> writeMessages(kj::ArrayPtr<kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>> messages) override;
  kj::Maybe<int> getSendBufferSize() override { return messages_.getSendBufferSize(); }
  kj::Promise<void> end() override { return messages_.end(); }

  // Ends the stream.
  void Drop() { Hang(nullptr); }
  // Reads no message after the one that is being read, until the stream ends.
  void StopReading() { reading_ = false; }
  // Ends it when no message has come yet.
  void HangIfSilent();

 private:
  kj::Promise<void> WhenNothingIsWritten();
  kj::Promise<void> Counted(kj::Promise<void> write);
  void Count(capnp::MessageReader& message);
  void Hang(const kj::Exception* reason);

  kj::Own<kj::AsyncCapabilityStream> stream_;
  capnp::AsyncCapabilityMessageStream messages_;
  Limits limits_;
  kj::Function<void(const kj::Exception&)> failed_;
  size_t open_calls_ = 0;
  bool heard_ = false;
  bool reading_ = true;
  size_t writes_ = 0;
  kj::Maybe<kj::Own<kj::PromiseFulfiller<void>>> waiting_reader_;
  // Of the reader that gets nothing more, for when the stream ends.
  kj::Maybe<kj::Own<kj::PromiseFulfiller<kj::Maybe<capnp::MessageReaderAndFds>>>> end_of_reading_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_BOUNDED_STREAM_H_
