// Connections that have to answer a challenge before anybody else sees them.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/thread.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/lobby.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/stream.h"
#include "migration/secret/proof_bytes.h"
#include "tests/fakes/lobby_rig.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

class LobbyChallengeTest : public LobbyRig {
 protected:
  // Of first bytes that begin with "a".
  std::unique_ptr<Lobby> Make(absl::Duration patience, size_t most = 64) {
    return LobbyRig::Make({.first_bytes = 4,
                           .patience = patience,
                           .most = most,
                           .challenges = [](std::span<const uint8_t> first) { return first[0] == 'a'; },
                           .answer_bytes = 6},
                          listener_.get());
  }
  std::unique_ptr<Stream> Come(const std::string& words = "") {
    auto stream = LobbyRig::Come();
    Say(*stream, words);
    return stream;
  }
  Nonce ChallengeTo(Stream& stream) {
    Nonce challenge;
    EXPECT_TRUE(stream.ReadAll(challenge).ok());
    return challenge;
  }
  bool IsClosed(Stream& stream) {
    std::vector<uint8_t> byte(1);
    return !stream.ReadAll(byte).ok();
  }
  static std::string Text(const std::vector<uint8_t>& bytes) { return {bytes.begin(), bytes.end()}; }
  Lobby::Arrival Next(Lobby& lobby) {
    auto arrival = lobby.Next(cancel_);
    EXPECT_TRUE(arrival.ok()) << arrival.status();
    return *std::move(arrival);
  }
};

TEST_F(LobbyChallengeTest, AnswersToChallengesAreWaitedForSideBySide) {
  const auto lobby = Make(absl::Hours(1));
  const auto silent = Come("ask!");
  const auto slow = Come("ask!");
  const auto quick = Come("ask!");
  const auto unasked = Come();
  ExpectNobody(*lobby);
  const Nonce to_slow = ChallengeTo(*slow);
  const Nonce to_quick = ChallengeTo(*quick);
  EXPECT_NE(to_slow, to_quick);
  EXPECT_NE(to_slow, ChallengeTo(*silent));
  Say(*slow, "one");
  Say(*quick, "answer and more");
  auto came = Next(*lobby);
  EXPECT_EQ(came.challenge, to_quick);
  EXPECT_EQ(Text(came.first_bytes), "ask!");
  EXPECT_EQ(Text(came.answer), "answer");
  std::vector<uint8_t> rest(9);
  ASSERT_TRUE(came.stream->ReadAll(rest).ok());
  EXPECT_EQ(Text(rest), " and more");
  Say(*unasked, "1234");
  came = Next(*lobby);
  EXPECT_EQ(came.challenge, std::nullopt);
  EXPECT_TRUE(came.answer.empty());
  Say(*slow, "two");
  came = Next(*lobby);
  EXPECT_EQ(came.challenge, to_slow);
  EXPECT_EQ(Text(came.answer), "onetwo");
  EXPECT_TRUE(dropped_.empty());
}

TEST_F(LobbyChallengeTest, WhoDoesNotAnswerInTimeIsDropped) {
  const auto lobby = Make(absl::Seconds(1));
  const auto silent = Come("ask!");
  ExpectNobody(*lobby);
  EXPECT_EQ(dropped_, std::vector<std::string>{"it did not answer its challenge"});
  (void)ChallengeTo(*silent);
  EXPECT_TRUE(IsClosed(*silent));
}

TEST_F(LobbyChallengeTest, WhoClosesInItsChallengeIsDropped) {
  const auto lobby = Make(absl::Hours(1));
  {
    const auto gone = Come("ask!");
    ExpectNobody(*lobby);
  }
  ExpectNobody(*lobby);
  EXPECT_EQ(dropped_.size(), 1u);
}

// Those that are silent in their challenge are as few as others, and the first that said nothing at all goes before
// them.
TEST_F(LobbyChallengeTest, WhoIsInItsChallengeMakesRoom) {
  const auto lobby = Make(absl::Hours(1), 2);
  const auto first = Come("ask!");
  ExpectNobody(*lobby);
  const auto silent = Come();
  ExpectNobody(*lobby);
  const auto second = Come("ask!");
  ExpectNobody(*lobby);
  (void)ChallengeTo(*first);
  EXPECT_TRUE(IsClosed(*silent));
  const auto third = Come("ask!");
  ExpectNobody(*lobby);
  EXPECT_TRUE(IsClosed(*first));
  (void)ChallengeTo(*third);
  Say(*third, "answer");
  EXPECT_EQ(Text(Next(*lobby).answer), "answer");
  EXPECT_EQ(dropped_, std::vector<std::string>(2, "too many others wait"));
}

}  // namespace
}  // namespace ferrite::migration
