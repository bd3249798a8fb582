// What is told of connections over TLS, and files that change while connections come.
#include "migration/channel/tls/tls_security.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "migration/channel/drop_log.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/tls_pair.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TlsFacts FactsOf(const std::string& name) {
  return {.peer = "tcp:192.0.2.7:4000", .name = name, .cipher = "TLS_AES_128_GCM_SHA256"};
}

class OnEachNewTlsTest : public testing::Test {
 protected:
  FakeClock clock_;
  const TestHost host_{clock_};
  std::vector<std::string> told_;
  const TlsSecurity::OnSecured on_secured_ =
      OnEachNewTls(host_.get(), [this](const std::string& words) { told_.push_back(words); });
};

TEST_F(OnEachNewTlsTest, WhoIsThereIsToldOnce) {
  for (const char* name : {"CN=source", "CN=source", "CN=another"}) {
    on_secured_(FactsOf(name));
  }
  EXPECT_THAT(told_, ElementsAre("tcp:192.0.2.7:4000, CN=source over TLS 1.3, TLS_AES_128_GCM_SHA256, without kTLS",
                                 "tcp:192.0.2.7:4000, CN=another over TLS 1.3, TLS_AES_128_GCM_SHA256, without kTLS"));
}

// Two certificates in turn are all that it takes (R11).
TEST_F(OnEachNewTlsTest, WhoComesInTurnWithAnotherFillsNoLog) {
  for (int i = 0; i < 1000; ++i) {
    on_secured_(FactsOf(i % 2 == 0 ? "CN=one" : "CN=two"));
  }
  EXPECT_EQ(told_.size(), static_cast<size_t>(DropLog::kMost));
  clock_.Advance(DropLog::kPause);
  on_secured_(FactsOf("CN=one"));
  ASSERT_EQ(told_.size(), static_cast<size_t>(DropLog::kMost) + 1);
  EXPECT_THAT(told_.back(), HasSubstr("(and 984 others before)"));
}

class TlsReloadTest : public testing::Test {
 protected:
  std::shared_ptr<TlsSecurity> Make(const TlsOptions& options) {
    auto made = TlsSecurity::Create(options, TlsSide::kDestination, {}, nullptr,
                                    [this](const absl::Status& result) { told_.push_back(result); });
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  // As which the two know each other; empty: not at all.
  std::string PartiesNow(TlsSecurity& destination) {
    const TlsPair pair = ShakeHands(*SecurityOf(place_.options(), TlsSide::kSource), destination);
    return pair.source.ok() && pair.destination.ok() ? (*pair.destination)->parties() : "";
  }

  TlsPlace place_;
  std::vector<absl::Status> told_;
};

TEST_F(TlsReloadTest, RenewedFilesAreThoseOfTheNextConnection) {
  const auto destination = Make(place_.options());
  const std::string before = PartiesNow(*destination);
  EXPECT_NE(before, "");
  EXPECT_EQ(PartiesNow(*destination), before);
  EXPECT_TRUE(told_.empty());
  place_.ca().Issue(place_.directory(), "server");
  const std::string after = PartiesNow(*destination);
  EXPECT_NE(after, "");
  EXPECT_NE(after, before);
  EXPECT_EQ(PartiesNow(*destination), after);
  EXPECT_THAT(told_, ElementsAre(absl::OkStatus())) << "once";
}

TEST_F(TlsReloadTest, AnotherCaIsBelievedFromThenOn) {
  const auto destination = Make(place_.options());
  const TestCa another("another");
  another.WriteCertificate(place_.directory());
  another.Issue(place_.directory(), "server");
  another.Issue(place_.directory(), "client");
  EXPECT_NE(PartiesNow(*destination), "");
}

// As between the certificate's renewal and its key's.
TEST_F(TlsReloadTest, FilesThatAreNotInOrderChangeNothingUntilTheyAre) {
  const auto destination = Make(place_.options());
  const std::string before = PartiesNow(*destination);
  const std::string key = absl::StrCat(place_.directory(), "/server-key.pem");
  std::filesystem::rename(key, absl::StrCat(key, ".away"));
  EXPECT_EQ(PartiesNow(*destination), before);
  EXPECT_EQ(PartiesNow(*destination), before);
  ASSERT_EQ(told_.size(), 1u) << "once";
  EXPECT_THAT(std::string(told_[0].message()), HasSubstr(absl::StrCat(key, ": No such file or directory")));
  place_.ca().Issue(place_.directory(), "server", {.begins = -absl::Hours(2), .ends = -absl::Hours(1)});
  EXPECT_EQ(PartiesNow(*destination), before);
  ASSERT_EQ(told_.size(), 2u);
  EXPECT_THAT(std::string(told_[1].message()), HasSubstr("server-cert.pem is expired"));
  place_.ca().Issue(place_.directory(), "server");
  EXPECT_NE(PartiesNow(*destination), before);
  EXPECT_TRUE(told_.back().ok());
}

// What its path leads to afterwards is nothing that was looked at.
TEST_F(TlsReloadTest, DirectoryIsTheOneThatWasFound) {
  const std::string link = absl::StrCat(place_.directory(), "/link");
  std::filesystem::create_directory_symlink(place_.directory(), link);
  TlsOptions options = place_.options();
  options.directory = link;
  const auto destination = Make(options);
  const std::string before = PartiesNow(*destination);
  const TlsPlace stranger;
  std::filesystem::remove(link);
  std::filesystem::create_directory_symlink(stranger.directory(), link);
  EXPECT_EQ(PartiesNow(*destination), before);
  EXPECT_TRUE(told_.empty());
}

TEST_F(TlsReloadTest, KeysAreReadAgain) {
  const std::string keys = place_.Write("keys.psk", "web:00112233445566778899aabbccddeeff\n");
  const TlsOptions options{.directory = "", .psk_file = keys, .hostname = ""};
  const auto destination = Make(options);
  place_.Write("keys.psk", "web:ff112233445566778899aabbccddeeff\n");
  const TlsPair pair = ShakeHands(*SecurityOf(options, TlsSide::kSource), *destination);
  EXPECT_TRUE(pair.destination.ok()) << pair.destination.status();
  EXPECT_THAT(told_, ElementsAre(absl::OkStatus()));
}

}  // namespace
}  // namespace ferrite::migration
