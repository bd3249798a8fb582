#include "migration/channel/socket/lobby.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/address_range.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_stream.h"
#include "tests/fakes/lobby_rig.h"
#include "tests/fakes/no_descriptors.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

class LobbyTest : public LobbyRig {
 protected:
  using LobbyRig::Make;
  std::unique_ptr<Lobby> Make(absl::Duration patience, size_t most, std::vector<AddressRange> from = {}) {
    return Make({.first_bytes = 4, .patience = patience, .most = most, .from = std::move(from)}, listener_.get());
  }
  std::string Next(Lobby& lobby) {
    auto arrival = lobby.Next(cancel_, clock_.Now() + absl::Seconds(30));
    EXPECT_TRUE(arrival.ok()) << arrival.status();
    return arrival.ok() ? std::string(arrival->first_bytes.begin(), arrival->first_bytes.end()) : "";
  }
};

TEST_F(LobbyTest, SilentAndSlowOnesKeepNobodyWaiting) {
  const auto lobby = Make(absl::Hours(1), 64);
  std::vector<std::unique_ptr<Stream>> silent;
  for (int i = 0; i < 20; ++i) {
    silent.push_back(Come());
  }
  const auto slow = Come();
  Say(*slow, "ab");
  const auto honest = Come();
  Say(*honest, "1234 and more");
  EXPECT_EQ(Next(*lobby), "1234");
  Say(*slow, "cd");
  EXPECT_EQ(Next(*lobby), "abcd");
  EXPECT_TRUE(dropped_.empty());
}

// As long as one is ready whenever somebody looks, the others would wait at the listener, where few have room.
TEST_F(LobbyTest, AllAreLetInBeforeOneIsReturned) {
  const auto lobby = Make(absl::Hours(1), 64);
  std::vector<std::unique_ptr<Stream>> crowd;
  for (int i = 0; i < 20; ++i) {
    crowd.push_back(Come());
    Say(*crowd.back(), "1234");
  }
  EXPECT_EQ(Next(*lobby), "1234");
  auto left = listener_->AcceptNow();
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_EQ(*left, nullptr) << "one still waits to be accepted";
  for (int i = 1; i < 20; ++i) {
    EXPECT_EQ(Next(*lobby), "1234") << i;
  }
}

TEST_F(LobbyTest, WhatFollowsTheFirstBytesIsLeftInTheConnection) {
  const auto lobby = Make(absl::Hours(1), 64);
  const auto peer = Come();
  Say(*peer, "1234rest");
  auto arrival = lobby->Next(cancel_);
  ASSERT_TRUE(arrival.ok());
  std::vector<uint8_t> rest(4);
  ASSERT_TRUE(arrival->stream->ReadAll(rest).ok());
  EXPECT_EQ(std::string(rest.begin(), rest.end()), "rest");
}

TEST_F(LobbyTest, WhoSaysNothingInTimeIsDropped) {
  const auto lobby = Make(absl::Seconds(1), 64);
  const auto silent = Come();
  ExpectNobody(*lobby);
  ASSERT_EQ(dropped_.size(), 1u);
  EXPECT_EQ(dropped_[0], "it did not say who it is");
  std::vector<uint8_t> byte(1);
  EXPECT_FALSE(silent->ReadAll(byte).ok()) << "its connection is closed";
}

TEST_F(LobbyTest, TheOldestGoesWhenTooManyWait) {
  const auto lobby = Make(absl::Hours(1), 2);
  const auto first = Come();
  const auto second = Come();
  const auto third = Come();
  ExpectNobody(*lobby);
  EXPECT_EQ(dropped_, std::vector<std::string>{"too many others wait"});
  Say(*second, "2222");
  EXPECT_EQ(Next(*lobby), "2222");
}

absl::Duration CpuTime() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return absl::DurationFromTimespec(now);
}

TEST_F(LobbyTest, WhoCannotBeAcceptedForWantOfDescriptorsIsAcceptedLater) {
  const auto lobby = Make(absl::Hours(1), 64);
  const auto peer = Come();
  Say(*peer, "1234");
  {
    const NoDescriptors none;
    EXPECT_TRUE(absl::IsResourceExhausted(listener_->AcceptNow().status()));
    const absl::Duration before = CpuTime();
    ExpectNobody(*lobby);
    EXPECT_LT(CpuTime() - before, absl::Milliseconds(200)) << "and does not spin";
    cancel_.Signal();
    EXPECT_EQ(lobby->Next(cancel_).status().code(), absl::StatusCode::kCancelled);
    cancel_.Drain();
  }
  EXPECT_TRUE(absl::StrContains(host_.log().text(), "open files (ulimit -n); it is tried again\n"))
      << host_.log().text();
  EXPECT_EQ(Next(*lobby), "1234");
}

// Strangers that take all descriptors keep nobody out: who waits here makes room, then who waits elsewhere.
TEST_F(LobbyTest, WhoWaitsMakesRoomForWantOfDescriptors) {
  const auto lobby = Make(absl::Hours(1), 64);
  const auto silent = Come();
  ExpectNobody(*lobby);
  auto elsewhere = EventFd::Create();
  ASSERT_TRUE(elsewhere.ok());
  auto kept = std::make_unique<EventFd>(*std::move(elsewhere));
  lobby->SetLetGo([&] {
    const bool any = kept != nullptr;
    kept.reset();
    return any;
  });
  const auto first = Come();
  const auto second = Come();
  const auto third = Come();
  Say(*first, "1111");
  Say(*second, "2222");
  const NoDescriptors none;
  auto one = lobby->Next(cancel_, clock_.Now() + absl::Seconds(30));
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->first_bytes[0], '1');
  EXPECT_EQ(dropped_, std::vector<std::string>{"no more files can be open here, and another one came"});
  EXPECT_NE(kept, nullptr);
  auto two = lobby->Next(cancel_, clock_.Now() + absl::Seconds(30));
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(two->first_bytes[0], '2');
  EXPECT_EQ(kept, nullptr);
  // Now nobody is left to go.
  ExpectNobody(*lobby);
  EXPECT_EQ(dropped_.size(), 1u);
}

// Descriptors that strangers hold are missing for the machine of the one who is waited for.
TEST_F(LobbyTest, FewWaitWhenTheDescriptorsThatAreLeftAreForSomethingElse) {
  auto lobby = Make({.first_bytes = 4, .patience = absl::Hours(1), .keep_free = 1 << 30}, listener_.get());
  std::vector<std::unique_ptr<Stream>> strangers;
  for (int i = 0; i < 20; ++i) {
    strangers.push_back(Come());
  }
  const auto last = Come();
  Say(*last, "1234");
  EXPECT_EQ(Next(*lobby), "1234");
  EXPECT_EQ(dropped_, std::vector<std::string>(13, "the files that can still be open here are for a machine"));
  // Who came with the same look, and was not read yet, makes no room.
  lobby.reset();
  strangers.clear();
  lobby = Make({.first_bytes = 4, .patience = absl::Hours(1), .keep_free = 1 << 30}, listener_.get());
  const auto first = Come();
  Say(*first, "4321");
  for (int i = 0; i < 20; ++i) {
    strangers.push_back(Come());
  }
  EXPECT_EQ(Next(*lobby), "4321");
  // With as many as that to spare nobody goes.
  dropped_.clear();
  lobby = Make({.first_bytes = 4, .patience = absl::Hours(1), .keep_free = 8}, listener_.get());
  for (int i = 0; i < 20; ++i) {
    strangers.push_back(Come());
  }
  const auto another = Come();
  Say(*another, "5678");
  EXPECT_EQ(Next(*lobby), "5678");
  EXPECT_TRUE(dropped_.empty());
}

// A connection of 127.0.0.2, which is one of this host as well.
Fd ComeFromTwo(const Address& address) {
  Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in here{.sin_family = AF_INET};
  EXPECT_EQ(inet_pton(AF_INET, "127.0.0.2", &here.sin_addr), 1);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&here), sizeof(here)), 0);
  const auto there = Resolve(address);
  EXPECT_TRUE(there.ok() && connect(fd.get(), there->front().get(), there->front().length) == 0);
  return fd;
}

TEST_F(LobbyTest, OthersThanThoseWhoMayComeAreClosedWithoutAWord) {
  const auto lobby =
      Make(absl::Hours(1), 64, {*AddressRange::Parse("192.0.2.0/24"), *AddressRange::Parse("127.0.0.2")});
  const auto stranger = Come();
  Say(*stranger, "1234");
  const Fd friendly = ComeFromTwo(listener_->address());
  ASSERT_EQ(send(friendly.get(), "5678", 4, 0), 4);
  EXPECT_EQ(Next(*lobby), "5678");
  EXPECT_EQ(dropped_, std::vector<std::string>{"its address is in no range of --from"});
  std::vector<uint8_t> byte(1);
  EXPECT_FALSE(stranger->ReadAll(byte).ok());
}

TEST_F(LobbyTest, ACancelEndsTheWait) {
  const auto lobby = Make(absl::Hours(1), 2);
  cancel_.Signal();
  EXPECT_EQ(lobby->Next(cancel_).status().code(), absl::StatusCode::kCancelled);
}

// Who opens connections in another way has no listener; one that is silent keeps no other waiting there either.
TEST_F(LobbyTest, ThoseThatAreHandedInWaitLikeTheOthers) {
  const auto lobby = Make({.first_bytes = 4, .patience = absl::Hours(1)}, /*listener=*/nullptr);
  auto silent = MakeStreamPair();
  auto honest = MakeStreamPair();
  ASSERT_TRUE(silent.ok() && honest.ok());
  lobby->HandIn(std::move(silent->first));
  Say(*honest->second, "1234");
  Thread other = StartOrDie("test-hand-in", [&] { lobby->HandIn(std::move(honest->first)); });
  EXPECT_EQ(Next(*lobby), "1234");
  Say(*silent->second, "4321");
  EXPECT_EQ(Next(*lobby), "4321");
}

}  // namespace
}  // namespace ferrite::migration
