#include "tests/fakes/scripted_agreement.h"

#include <gtest/gtest.h>

#include <utility>

#include "migration/protocol/messages.h"
#include "migration/protocol/version.h"
#include "tests/fakes/scripted_peer.h"

namespace ferrite::migration {

void SendHello(ScriptedAgreement& agreement, Stream& control, uint64_t features) {
  const KeyExchange& exchange = agreement.NewExchange(KeyExchange::Side::kSource);
  EXPECT_TRUE(SendControl(control, message::Hello{.move_id = kScriptedMove,
                                                  .versions = kOurVersions,
                                                  .features = features,
                                                  .page_channels = 1,
                                                  .urgent_channels = 1,
                                                  .key = exchange.key(),
                                                  .nonce = exchange.nonce()})
                  .ok());
}

void HearWelcome(ScriptedAgreement& agreement, Stream& control) {
  const auto welcome = HearA<message::Welcome>(control);
  auto secret = agreement.exchange->Agree(welcome.key, welcome.nonce, kScriptedMove);
  ASSERT_TRUE(secret.ok()) << secret.status();
  agreement.credentials = Credentials(*std::move(secret), agreement.exchange->nonce(), welcome.nonce);
}

void SendMachine(const ScriptedAgreement& agreement, Stream& control, const MachineSpec& spec) {
  const auto digest = agreement.credentials.Prove(Claim::kMachine, 0);
  EXPECT_TRUE(digest.ok()) << digest.status();
  (void)SendControl(control, message::Machine{.spec = spec, .digest = digest.value_or(Digest{})});
}

}  // namespace ferrite::migration
