// A control channel within one process: messages change hands as they are.
#ifndef FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_CONTROL_H_
#define FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_CONTROL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/time.h"
#include "migration/channel/control_channel.h"
#include "migration/channel/pair/pair_pipe.h"

namespace ferrite::migration {

using MessagePipe = PairPipe<Message>;

// The two ends have `in` and `out` the other way round.
class PairControlChannel final : public ControlChannel {
 public:
  PairControlChannel(std::shared_ptr<MessagePipe> in, std::shared_ptr<MessagePipe> out, std::string peer)
      : in_(std::move(in)), out_(std::move(out)), peer_(std::move(peer)) {}
  ~PairControlChannel() override;

  absl::Status Send(const Message& message) override;
  void SendAtOnce(const Message& message) override;
  bool HasRoom() const override;
  absl::StatusOr<Received> Next(absl::Duration limit) override;
  // Messages here take nothing on a line.
  void SetMostBytes(uint32_t bytes) override { (void)bytes; }
  void SetPatience(absl::Duration patience) override { SetSendPatience(patience); }
  void SetSendPatience(absl::Duration patience) override { patience_ = absl::ToInt64Nanoseconds(patience); }
  void Shutdown() override;
  const std::string& peer() const override { return peer_; }

 private:
  const std::shared_ptr<MessagePipe> in_;
  const std::shared_ptr<MessagePipe> out_;
  const std::string peer_;
  std::atomic<int64_t> patience_{absl::ToInt64Nanoseconds(absl::Seconds(10))};
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_CONTROL_H_
