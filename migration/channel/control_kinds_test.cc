// What every kind of channel does with messages, and who meets whom.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "migration/channel/control_channel.h"
#include "migration/channel/rendezvous.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/proof.h"
#include "migration/secret/proof_bytes.h"
#include "tests/fakes/channel_kinds.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

using ControlKindsTest = ChannelKindsTest;

TEST_P(ControlKindsTest, ChannelsSayWhoTheyAre) {
  std::unique_ptr<ControlChannel> control;
  std::unique_ptr<PageSink> page;
  std::vector<std::unique_ptr<IncomingChannel>> came;
  came.push_back(ComeOf([&](ChannelOpener::Terms& of_control) {
    return Keep(control, place_.opener->OpenControl(Of(ChannelRole::kControl), of_control));
  }));
  came.push_back(ComeOf([&](ChannelOpener::Terms& of_page) {
    return Keep(page, place_.opener->OpenPages(Of(ChannelRole::kPage, 3), of_page));
  }));
  EXPECT_EQ(*came[0]->preamble(), Of(ChannelRole::kControl));
  EXPECT_EQ(*came[1]->preamble(), Of(ChannelRole::kPage, 3));
  EXPECT_FALSE(came[0]->peer().empty());
  // One that was for somebody else is the first that comes again, as it was.
  const auto proof = came[1]->proof();
  place_.acceptor->PutBack(std::move(came[1]));
  const auto again = Come();
  EXPECT_EQ(*again->preamble(), Of(ChannelRole::kPage, 3));
  EXPECT_EQ(again->proof(), proof);
}

// Who opens a channel answers a challenge that nobody has seen before; only the first control channel is met with none.
TEST_P(ControlKindsTest, FurtherChannelsAnswerAFreshChallenge) {
  std::unique_ptr<ControlChannel> first;
  EXPECT_EQ(ComeOf([&](ChannelOpener::Terms& of) {
              return Keep(first, place_.opener->OpenControl(Of(ChannelRole::kControl), of));
            })->proof(),
            std::nullopt);
  std::unique_ptr<ControlChannel> recover;
  std::unique_ptr<PageSink> page;
  std::unique_ptr<UrgentSink> urgent;
  std::vector<std::unique_ptr<IncomingChannel>> came;
  came.push_back(ComeOf([&](ChannelOpener::Terms& of) {
    return Keep(recover, place_.opener->OpenControl(Of(ChannelRole::kRecover), of));
  }));
  came.push_back(ComeOf(
      [&](ChannelOpener::Terms& of) { return Keep(page, place_.opener->OpenPages(Of(ChannelRole::kPage, 1), of)); }));
  came.push_back(ComeOf([&](ChannelOpener::Terms& of) {
    return Keep(urgent, place_.opener->OpenUrgent(Of(ChannelRole::kUrgent, 2), of));
  }));
  std::set<Nonce> challenges;
  for (uint16_t index = 0; index < 3; ++index) {
    const auto proof = came[index]->proof();
    ASSERT_TRUE(proof.has_value());
    EXPECT_EQ(*proof, (ChannelProof{.epoch = index + 5u,
                                    .source = {3},
                                    .destination = proof->digest,
                                    .digest = proof->destination,
                                    .parties = proof->parties}));
    challenges.insert(proof->destination);
  }
  EXPECT_EQ(challenges.size(), 3u);
  EXPECT_FALSE(challenges.contains(Nonce{}));
  // What is said then comes as it was said.
  const auto control = came[0]->TakeControl(kSoon);
  ASSERT_TRUE(recover->Send(message::Heard{}).ok());
  EXPECT_EQ(*control->Next(kSoon)->message, Message(message::Heard{}));
}

TEST_P(ControlKindsTest, WhoCannotProveAnythingOpensNothing) {
  const absl::Status refused = absl::PermissionDeniedError("no secret");
  const EventFd over = *EventFd::Create();
  const Thread acceptor = StartOrDie("test-accept", [&] {
    EXPECT_TRUE(absl::IsCancelled(place_.acceptor->Next(over).status())) << "nobody has come";
  });
  auto terms = Terms();
  terms.prove = [&](const Preamble&, const Nonce&) { return refused; };
  EXPECT_EQ(place_.opener->OpenPages(Of(ChannelRole::kPage), terms).status(), refused);
  over.Signal();
}

TEST_P(ControlKindsTest, NobodyComesInTimeOrTheWaitIsCancelled) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(place_.acceptor->Next(never_, MonotonicTime::Now()).status()));
  const EventFd cancel = *EventFd::Create();
  cancel.Signal();
  EXPECT_TRUE(absl::IsCancelled(place_.acceptor->Next(cancel).status()));
}

TEST_P(ControlKindsTest, MessagesComeWholeAndInOrderBothWays) {
  ASSERT_NO_FATAL_FAILURE(OpenControl());
  EXPECT_TRUE(absl::IsDeadlineExceeded(destination_->Next(absl::ZeroDuration()).status()));
  const message::Package package{.version = 1, .blob = std::vector<uint8_t>(300'000, 0x5a)};
  Thread sender = StartOrDie("test-send", [&] {
    EXPECT_TRUE(source_->Send(package).ok());
    EXPECT_TRUE(source_->Send(message::Grant{.move_id = {7}, .epoch = 3}).ok());
  });
  EXPECT_EQ(*destination_->Next(kSoon)->message, Message(package));
  EXPECT_EQ(*destination_->Next(kSoon)->message, Message(message::Grant{.move_id = {7}, .epoch = 3}));
  sender.Join();
  EXPECT_TRUE(destination_->HasRoom());
  destination_->SendAtOnce(message::Error{.message = "no"});
  EXPECT_EQ(*source_->Next(kSoon)->message, Message(message::Error{.message = "no"}));
}

TEST_P(ControlKindsTest, LastWordsAreHeard) {
  ASSERT_NO_FATAL_FAILURE(OpenControl());
  ASSERT_TRUE(source_->Send(message::Error{.message = "last"}).ok());
  source_->Shutdown();
  EXPECT_EQ(*destination_->Next(kSoon)->message, Message(message::Error{.message = "last"}));
  EXPECT_TRUE(absl::IsUnavailable(destination_->Next(kSoon).status()));
  EXPECT_TRUE(absl::IsUnavailable(source_->Next(kSoon).status()));
  EXPECT_TRUE(absl::IsUnavailable(source_->Send(message::Heard{})));
}

// A write may find first that the peer went.
TEST_P(ControlKindsTest, LastWordsAreHeardAfterAFailedWrite) {
  ASSERT_NO_FATAL_FAILURE(OpenControl());
  ASSERT_TRUE(source_->Send(message::Cancel{.message = "last"}).ok());
  source_->Shutdown();
  absl::Status status;
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    status = destination_->Send(message::Discarded{});
  }
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  const auto last = destination_->Next(kSoon);
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(*last->message, Message(message::Cancel{.message = "last"}));
  EXPECT_TRUE(absl::IsUnavailable(destination_->Next(kSoon).status()));
  EXPECT_TRUE(absl::IsUnavailable(destination_->Send(message::Discarded{})));
}

TEST_P(ControlKindsTest, WhoReadsNothingIsGivenUp) {
  ASSERT_NO_FATAL_FAILURE(OpenControl());
  source_->SetPatience(absl::Milliseconds(20));
  absl::Status status;
  const message::Package package{.version = 1, .blob = std::vector<uint8_t>(100'000)};
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    status = source_->Send(package);
  }
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_FALSE(source_->HasRoom());
}

INSTANTIATE_TEST_SUITE_P(All, ControlKindsTest, EveryKind(), KindName);

}  // namespace
}  // namespace ferrite::migration
