// `ferrite receive` and `move` with --tls-dir and --tls-psk, as people use them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/channel/socket/address.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/relay.h"
#include "tests/fakes/tls_place.h"
#include "vmm/app/exit_codes.h"
#include "vmm/app/ferrite_move_rig.h"

namespace ferrite {
namespace {

using testing::HasSubstr;

constexpr char kListen[] = "tcp:127.0.0.1:0";
constexpr char kKeys[] = "web:00112233445566778899aabbccddeeff\n";

class FerriteTlsMoveTest : public FerriteMoveRig {
 protected:
  std::string Dir() const { return absl::StrCat(" --tls-dir ", place_.directory()); }
  void ExpectMoved(const std::string& mode, const std::string& receive, const std::string& move) {
    RunGuest("here", "mode=step set=8M report_ms=10 rate=20000");
    const std::string address = StartReceiver("there", absl::StrCat(kListen, receive));
    const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address, " --channels 2 --mode ", mode, move));
    ASSERT_EQ(moved.exit_code, kExitOk) << moved.err << moved.out;
    EXPECT_THAT(NextReport("there"), HasSubstr("event=dirty"));
    EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
    EXPECT_EQ(receiver_->Wait().exit_code, kExitOk);
    receiver_.reset();
  }

  const migration::TlsPlace place_;
};

TEST_F(FerriteTlsMoveTest, GuestMovesOverTls) {
  for (const char* mode : {"precopy", "postcopy"}) {
    SCOPED_TRACE(mode);
    ExpectMoved(mode, Dir(), Dir());
  }
}

TEST_F(FerriteTlsMoveTest, GuestMovesWithAKeyOfBoth) {
  const std::string option = absl::StrCat(" --tls-psk ", place_.Write("keys.psk", kKeys));
  ExpectMoved("auto", option, option);
}

// Whatever is the matter, the guest stays, and one line says why.
TEST_F(FerriteTlsMoveTest, WhoIsNotBelievedMovesNothing) {
  RunGuest("here", "mode=step set=8M report_ms=10 rate=20000");
  const std::string address = StartReceiver("there", absl::StrCat(kListen, Dir()));
  const auto refused = [&](const std::string& options) {
    const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address, options));
    EXPECT_EQ(moved.exit_code, kExitFailure);
    EXPECT_EQ(std::count(moved.err.begin(), moved.err.end(), '\n'), 1) << moved.err;
    EXPECT_EQ(Info("here")["state"], "running");
    return moved.err;
  };
  EXPECT_THAT(refused(""), HasSubstr("speaks TLS alone, and this side plain; web1 runs on here"));
  EXPECT_THAT(refused(absl::StrCat(Dir(), " --tls-hostname other.example")),
              HasSubstr("its certificate is not for other.example: hostname mismatch; web1 runs on here"));
  const migration::TlsPlace stranger;
  EXPECT_THAT(refused(absl::StrCat(" --tls-dir ", stranger.directory())), HasSubstr("is not believed: "));
  EXPECT_THAT(refused(absl::StrCat(" --tls-psk ", place_.Write("keys.psk", kKeys))),
              HasSubstr("it does not know our pre-shared key, and shows a certificate"));
  const std::string key = absl::StrCat(place_.directory(), "/client-key.pem");
  ASSERT_EQ(chmod(key.c_str(), 0644), 0);
  EXPECT_THAT(refused(Dir()),
              HasSubstr(absl::StrCat(key, " can be read or written by others (mode 0644): chmod 0600")));
  ASSERT_EQ(unlink(key.c_str()), 0);
  EXPECT_THAT(refused(Dir()), HasSubstr(absl::StrCat(key, ": No such file or directory")));
  place_.ca().Issue(place_.directory(), "client", {.begins = -absl::Hours(2), .ends = -absl::Hours(1)});
  EXPECT_THAT(refused(Dir()), HasSubstr("client-cert.pem is expired"));
  place_.ca().Issue(place_.directory(), "client", {.self_signed = true});
  EXPECT_THAT(refused(Dir()), HasSubstr("ca-cert.pem: self-signed certificate"));
  // And none of it was the end of the wait.
  place_.ca().Issue(place_.directory(), "client");
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address, Dir()));
  EXPECT_EQ(moved.exit_code, kExitOk) << moved.err;
  EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
}

TEST_F(FerriteTlsMoveTest, PlainReceiverGetsNothingOfAMoveOverTls) {
  RunGuest("here", "mode=step set=8M report_ms=10 rate=20000");
  const std::string address = StartReceiver("there", kListen);
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address, Dir()));
  EXPECT_EQ(moved.exit_code, kExitFailure);
  EXPECT_THAT(moved.err, HasSubstr("closed the connection in the TLS handshake; is it one that takes TLS?"));
  EXPECT_EQ(Info("here")["state"], "running");
}

// It goes on over TLS whether or not that is said again, with the files that there are then.
TEST_F(FerriteTlsMoveTest, LostConnectionIsFoundAgainOverTls) {
  RunSlowGuest("here");
  auto relay = migration::Relay::Create(directory_ + "/relay",
                                        *migration::ParseAddress(StartReceiver("there", absl::StrCat(kListen, Dir()))));
  ASSERT_TRUE(relay.ok()) << relay.status();
  (*relay)->Record();
  FerriteProcess move(Words(
      "here", absl::StrCat("move web1 ", (*relay)->address().ToString(), Dir(),
                           " --tls-hostname localhost --mode postcopy --max-postcopy-bandwidth 4M --recover-for 0")));
  for (const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(60);
       Info("here")["move"]["state"] != "postcopy-active" && MonotonicTime::Now() < deadline;) {
  }
  (*relay)->Cut();
  EXPECT_EQ(move.Wait().exit_code, kExitFailure);
  const migration::TlsPlace stranger;
  EXPECT_THAT(
      Ferrite("here", absl::StrCat("recover web1 --tls-hostname localhost --tls-dir ", stranger.directory())).err,
      HasSubstr("is not believed: "));
  // There as well, where `receive` goes on as it was started (R4).
  const migration::TestCa another("another");
  another.WriteCertificate(place_.directory());
  another.Issue(place_.directory(), "server");
  another.Issue(place_.directory(), "client", {.name = "renewed"});
  const Finished found = Ferrite("here", "recover web1");
  EXPECT_EQ(found.exit_code, kExitOk) << found.err;
  EXPECT_THAT(NextReport("there"), HasSubstr("errors=0 ")) << "R4";
  const std::vector<std::vector<uint8_t>> said = (*relay)->recorded();
  EXPECT_GE(said.size(), 6u);
  for (const std::vector<uint8_t>& connection : said) {
    ASSERT_FALSE(connection.empty());
    EXPECT_EQ(connection[0], 0x16) << "a hello of TLS, and nothing before it";
  }
}

TEST_F(FerriteTlsMoveTest, ReceiverWithoutItsFilesDoesNotWait) {
  const Finished none =
      Ferrite("there", absl::StrCat("receive --name web1 --listen ", kListen, " --tls-dir ", directory_));
  EXPECT_NE(none.exit_code, kExitOk);
  EXPECT_THAT(none.err, HasSubstr("ca-cert.pem"));
  const Finished both = Ferrite("there", absl::StrCat("receive --name web1 --listen ", kListen, Dir(), " --tls-psk x"));
  EXPECT_THAT(both.err, HasSubstr("give one of --tls-dir and --tls-psk"));
}

}  // namespace
}  // namespace ferrite
