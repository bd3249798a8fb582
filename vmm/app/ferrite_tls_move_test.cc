// `ferrite receive` and `move` with --tls-dir and --tls-psk, as people use them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/tls_place.h"
#include "vmm/app/exit_codes.h"
#include "vmm/app/ferrite_move_rig.h"

namespace ferrite {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr char kListen[] = "tcp:127.0.0.1:0";

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
  const std::string path = place_.Write("keys.psk", "web:00112233445566778899aabbccddeeff\n");
  const std::string option = absl::StrCat(" --tls-psk ", path);
  ExpectMoved("auto", option, option);
}

// Whatever is the matter, the guest stays, and one line says why.
TEST_F(FerriteTlsMoveTest, WhoIsNotBelievedMovesNothing) {
  RunGuest("here", "mode=step set=8M report_ms=10 rate=20000");
  const std::string address = StartReceiver("there", absl::StrCat(kListen, Dir()));
  const auto refused = [&](const std::string& options) {
    const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address, options));
    EXPECT_NE(moved.exit_code, kExitOk);
    EXPECT_EQ(Info("here")["state"], "running");
    return moved.err;
  };
  EXPECT_NE(refused(""), "") << "in plain";
  EXPECT_THAT(refused(absl::StrCat(Dir(), " --tls-hostname other.example")), HasSubstr("hostname mismatch"));
  const migration::TlsPlace stranger;
  EXPECT_THAT(refused(absl::StrCat(" --tls-dir ", stranger.directory())), HasSubstr("is not believed"));
  ASSERT_EQ(chmod(absl::StrCat(place_.directory(), "/client-key.pem").c_str(), 0644), 0);
  EXPECT_THAT(refused(Dir()), AllOf(HasSubstr("client-key.pem"), HasSubstr("chmod 0600")));
  ASSERT_EQ(chmod(absl::StrCat(place_.directory(), "/client-key.pem").c_str(), 0600), 0);
  // And none of it was the end of the wait.
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address, Dir()));
  EXPECT_EQ(moved.exit_code, kExitOk) << moved.err;
  EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
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
