// A control channel over a byte stream (docs/wire_format.md, "Control frames").
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_CONTROL_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_CONTROL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/clock.h"
#include "migration/channel/control_channel.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/control_frame.h"

namespace ferrite::migration {

class StreamControlChannel final : public ControlChannel {
 public:
  // `clock` outlives it.
  StreamControlChannel(std::unique_ptr<Stream> stream, const Clock& clock)
      : stream_(std::move(stream)), clock_(clock) {}

  absl::Status Send(const Message& message) override;
  void SendAtOnce(const Message& message) override;
  bool HasRoom() const override { return stream_->IsWritable(); }
  absl::StatusOr<Received> Next(absl::Duration limit) override;
  void SetMostBytes(uint32_t bytes) override { most_bytes_ = bytes; }
  void SetPatience(absl::Duration patience) override { stream_->SetPatience(patience); }
  void SetSendPatience(absl::Duration patience) override { stream_->SetWritePatience(patience); }
  void Shutdown() override { stream_->Shutdown(); }
  const std::string& peer() const override { return stream_->peer(); }
  absl::StatusOr<Nonce> Bind(const Nonce& nonce) const override { return stream_->Bind(nonce); }
  std::string parties() const override { return stream_->parties(); }

 private:
  const std::unique_ptr<Stream> stream_;
  const Clock& clock_;
  std::atomic<uint32_t> most_bytes_{kMaxControlBytes};
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_CONTROL_H_
