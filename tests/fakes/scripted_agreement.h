// What a scripted side of a move agrees on with a real one, and what it proves by that.
#ifndef FERRITE_TESTS_FAKES_SCRIPTED_AGREEMENT_H_
#define FERRITE_TESTS_FAKES_SCRIPTED_AGREEMENT_H_

#include <cstdint>
#include <optional>

#include "migration/api/machine_spec.h"
#include "migration/api/move_id.h"
#include "migration/channel/socket/stream.h"
#include "migration/secret/move_secret.h"
#include "migration/session/credentials.h"

namespace ferrite::migration {

// The move that scripted peers speak of.
inline constexpr MoveId kScriptedMove = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

struct ScriptedAgreement {
  std::optional<KeyExchange> exchange;  // of the last HELLO or WELCOME
  Credentials credentials;              // after WELCOME

  const KeyExchange& NewExchange(KeyExchange::Side side) { return exchange.emplace(*KeyExchange::Create(side)); }
};

// As a source, of one page channel and one urgent channel.
void SendHello(ScriptedAgreement& agreement, Stream& control, uint64_t features = 0);
void HearWelcome(ScriptedAgreement& agreement, Stream& control);
void SendMachine(const ScriptedAgreement& agreement, Stream& control, const MachineSpec& spec);

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_SCRIPTED_AGREEMENT_H_
