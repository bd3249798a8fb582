// Calls that begin moves: over TLS, or not at all.
#include <capnp/capability.h>
#include <capnp/rpc-twoparty.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <kj/async-io.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/api/move_options.h"
#include "migration/api/tls_options.h"
#include "proto/control.capnp.h"
#include "tests/fakes/control_place.h"
#include "tests/fakes/fake_machine.h"
#include "tests/fakes/scripted_mover.h"
#include "tests/fakes/test_thread.h"
#include "vmm/control/client.h"
#include "vmm/control/server.h"

namespace ferrite {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const migration::TlsOptions kCertificates = {.directory = "/certificates", .psk_file = "", .hostname = "b.example"};
const migration::TlsOptions kKey = {.directory = "", .psk_file = "/keys.psk", .hostname = ""};

class MoveCallsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = ControlServer::Create(place_.Listen(), {.name = "vm", .machine = &machine_, .mover = &mover_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  static MachineConfig Config() {
    MachineConfig config;
    config.name = "vm";
    config.memory_bytes = 64 << 20;
    return config;
  }

  ControlPlace place_;
  FakeMachine machine_{Config()};
  ScriptedMover mover_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(MoveCallsTest, MoveGoesByWhatItsClientSays) {
  const auto client = place_.Connect();
  EXPECT_EQ(client->StartMove("tcp:b:1", {}, {}).status(), absl::OkStatus());
  EXPECT_EQ(client->StartMove("tcp:b:2", {}, kCertificates).status(), absl::OkStatus());
  EXPECT_EQ(client->StartMove("tcp:b:3", {}, kKey).status(), absl::OkStatus());
  EXPECT_EQ(client->RecoverMove("tcp:b:4", {}).status(), absl::OkStatus());
  EXPECT_EQ(client->RecoverMove("tcp:b:5", kCertificates).status(), absl::OkStatus());
  EXPECT_EQ(client->RecoverMove("", kKey).status(), absl::OkStatus());
  EXPECT_THAT(
      mover_.moves(),
      ElementsAre("tcp:b:1", "tcp:b:2 by /certificates, named b.example", "tcp:b:3 by /keys.psk", "recover tcp:b:4",
                  "recover tcp:b:5 by /certificates, named b.example", "recover  by /keys.psk"));
}

// Who says something of TLS does not mean a plain move.
TEST_F(MoveCallsTest, TlsThatNothingIsKnownOfIsNoPlainMove) {
  const auto client = place_.Connect();
  const migration::TlsOptions name_alone = {.directory = "", .psk_file = "", .hostname = "b.example"};
  EXPECT_TRUE(absl::IsInvalidArgument(client->StartMove("tcp:b:1", {}, name_alone).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client->RecoverMove("tcp:b:1", name_alone).status()));
  EXPECT_THAT(mover_.moves(), ElementsAre());
}

// A monitor as they were before TLS: of the methods here it has these, and passes over what it does not know of them.
class OlderControl final : public control::Control::Server {
 public:
  explicit OlderControl(std::atomic<int>& moves) : moves_(moves) {}

 protected:
  kj::Promise<void> startMove(StartMoveContext /*context*/) override {
    ++moves_;
    return kj::READY_NOW;
  }
  kj::Promise<void> recoverMove(RecoverMoveContext /*context*/) override {
    ++moves_;
    return kj::READY_NOW;
  }

 private:
  std::atomic<int>& moves_;
};

TEST(OlderMonitorTest, MoveOverTlsIsNoPlainMoveOfIts) {
  ControlPlace place;
  const Fd listener = place.Listen();
  std::atomic<int> moves = 0;
  Thread monitor = StartOrDie("monitor", [&] {
    pollfd polled = {listener.get(), POLLIN, 0};
    ASSERT_EQ(poll(&polled, 1, 60'000), 1);
    kj::AsyncIoContext context = kj::setupAsyncIo();
    auto stream = context.lowLevelProvider->wrapSocketFd(
        accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC),
        kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP | kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC);
    capnp::TwoPartyVatNetwork network(*stream, capnp::rpc::twoparty::Side::SERVER);
    auto rpc = capnp::makeRpcServer(network, kj::heap<OlderControl>(moves));
    network.onDisconnect().wait(context.waitScope);
  });
  {
    const auto client = place.Connect();
    for (const migration::TlsOptions& tls : {kCertificates, kKey}) {
      for (const absl::Status& status :
           {client->StartMove("tcp:b:1", {}, tls).status(), client->RecoverMove("tcp:b:1", tls).status()}) {
        EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
        EXPECT_THAT(status.message(), HasSubstr("the monitor of vm is of an older version and has no TLS"));
      }
    }
    EXPECT_EQ(moves, 0);
    // And it moves in plain for who says so.
    EXPECT_EQ(client->StartMove("tcp:b:1", {}, {}).status(), absl::OkStatus());
    EXPECT_EQ(client->RecoverMove("tcp:b:1", {}).status(), absl::OkStatus());
    EXPECT_EQ(moves, 2);
  }
  monitor.Join();
}

}  // namespace
}  // namespace ferrite
