// A lobby on a port of this host, in virtual time, and who comes to it.
#ifndef FERRITE_TESTS_FAKES_LOBBY_RIG_H_
#define FERRITE_TESTS_FAKES_LOBBY_RIG_H_

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/lobby.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {

// Threads: the test's.
class LobbyRig : public testing::Test {
 protected:
  std::unique_ptr<Lobby> Make(Lobby::Options options, Listener* listener) {
    auto lobby = Lobby::Create(listener, std::move(options), host_.get());
    EXPECT_TRUE(lobby.ok()) << lobby.status();
    (*lobby)->SetOnDropped([this](const std::string&, absl::string_view why) { dropped_.emplace_back(why); });
    return *std::move(lobby);
  }
  std::unique_ptr<SocketStream> Come() {
    auto stream = Connect(listener_->address(), absl::Seconds(10), cancel_);
    EXPECT_TRUE(stream.ok()) << stream.status();
    return *std::move(stream);
  }
  static void Say(Stream& stream, const std::string& words) {
    ASSERT_TRUE(stream.WriteAll({reinterpret_cast<const uint8_t*>(words.data()), words.size()}).ok());
  }
  // In a minute.
  void ExpectNobody(Lobby& lobby) {
    std::atomic<bool> over{false};
    const Thread waiter = StartOrDie("test-wait", [&] {
      EXPECT_EQ(lobby.Next(cancel_, clock_.Now() + absl::Minutes(1)).status().code(),
                absl::StatusCode::kDeadlineExceeded);
      over = true;
    });
    EXPECT_TRUE(clock_.PassUntil([&] { return over.load(); })) << "it does not wait";
  }

  const EventFd cancel_ = *EventFd::Create();
  const std::unique_ptr<Listener> listener_ = *Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  std::vector<std::string> dropped_;
  FakeClock clock_;
  const TestHost host_{clock_};
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_LOBBY_RIG_H_
