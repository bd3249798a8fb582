// A stream that passes everything on to another one: tests override what they watch, or spoil.
#ifndef FERRITE_TESTS_FAKES_WRAPPED_STREAM_H_
#define FERRITE_TESTS_FAKES_WRAPPED_STREAM_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "migration/channel/socket/stream.h"

namespace ferrite::migration {

class WrappedStream : public Stream {
 public:
  explicit WrappedStream(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}

  // ReadRest() comes here, too.
  absl::Status ReadAll(std::span<uint8_t> out) override { return stream_->ReadAll(out); }
  using Stream::WriteAll;
  absl::Status WriteAll(std::span<iovec> buffers) override { return stream_->WriteAll(buffers); }
  size_t WriteSome(std::span<const uint8_t> bytes) override { return stream_->WriteSome(bytes); }
  absl::StatusOr<size_t> ReadSome(std::span<uint8_t> out) override { return stream_->ReadSome(out); }
  void Shutdown() override { stream_->Shutdown(); }
  bool shut_down() const override { return stream_->shut_down(); }
  void SetPatience(absl::Duration patience) override { stream_->SetPatience(patience); }
  void SetWritePatience(absl::Duration patience) override { stream_->SetWritePatience(patience); }
  bool AwaitReadable(const Clock& clock, absl::Duration limit) override { return stream_->AwaitReadable(clock, limit); }
  bool IsWritable() const override { return stream_->IsWritable(); }
  absl::Status Join(WaitSet& set, uint32_t tag) override { return stream_->Join(set, tag); }
  const std::string& peer() const override { return stream_->peer(); }
  int fd() const override { return stream_->fd(); }
  absl::StatusOr<Nonce> Bind(const Nonce& nonce) const override { return stream_->Bind(nonce); }
  std::string parties() const override { return stream_->parties(); }

 private:
  const std::unique_ptr<Stream> stream_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_WRAPPED_STREAM_H_
