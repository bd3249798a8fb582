// A move whose source is on another connection than its destination: somebody holds one to each, and passes on what
// they say. Where connections tell themselves apart (TLS does, ControlChannel::Bind()), the proofs of a move do not go
// over from one to the other (R2).
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/channel/control_channel.h"
#include "migration/channel/pair/pair_rendezvous.h"
#include "migration/channel/rendezvous.h"
#include "migration/protocol/messages.h"
#include "migration/secret/proof_bytes.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

class OtherControl final : public ControlChannel {
 public:
  explicit OtherControl(std::unique_ptr<ControlChannel> channel) : channel_(std::move(channel)) {}

  absl::Status Send(const Message& message) override { return channel_->Send(message); }
  void SendAtOnce(const Message& message) override { channel_->SendAtOnce(message); }
  bool HasRoom() const override { return channel_->HasRoom(); }
  absl::StatusOr<Received> Next(absl::Duration limit) override { return channel_->Next(limit); }
  void SetMostBytes(uint32_t bytes) override { channel_->SetMostBytes(bytes); }
  void SetPatience(absl::Duration patience) override { channel_->SetPatience(patience); }
  void SetSendPatience(absl::Duration patience) override { channel_->SetSendPatience(patience); }
  void Shutdown() override { channel_->Shutdown(); }
  const std::string& peer() const override { return channel_->peer(); }
  absl::StatusOr<Nonce> Bind(const Nonce& nonce) const override {
    Nonce other = nonce;
    other[0] ^= 1;
    return other;
  }

 private:
  const std::unique_ptr<ControlChannel> channel_;
};

class OtherOpener final : public ChannelOpener {
 public:
  explicit OtherOpener(std::shared_ptr<ChannelOpener> opener) : opener_(std::move(opener)) {}

  absl::StatusOr<std::unique_ptr<ControlChannel>> OpenControl(const Preamble& preamble, Terms& terms) override {
    auto control = opener_->OpenControl(preamble, terms);
    return control.ok() ? std::make_unique<OtherControl>(*std::move(control)) : std::move(control);
  }
  absl::StatusOr<std::unique_ptr<PageSink>> OpenPages(const Preamble& preamble, Terms& terms) override {
    return opener_->OpenPages(preamble, terms);
  }
  absl::StatusOr<std::unique_ptr<UrgentSink>> OpenUrgent(const Preamble& preamble, Terms& terms) override {
    return opener_->OpenUrgent(preamble, terms);
  }
  std::string where() const override { return opener_->where(); }

 private:
  const std::shared_ptr<ChannelOpener> opener_;
};

TEST(OtherConnectionTest, ProofsAreNotPassedOn) {
  for (const bool pair : {false, true}) {
    FakeMove move({.pair = pair, .wrap = [](PairRendezvous place) {
                     place.opener = std::make_shared<OtherOpener>(std::move(place.opener));
                     return place;
                   }});
    const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy});
    EXPECT_FALSE(result.source.ok());
    EXPECT_EQ(move.destination().guest(), nullptr) << "its machine is not even made";
    ExpectOneRunner(move, result, /*steps=*/100);
  }
}

}  // namespace
}  // namespace ferrite::migration
