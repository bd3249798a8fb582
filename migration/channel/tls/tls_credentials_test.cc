#include "migration/channel/tls/tls_credentials.h"

#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class TlsCredentialsTest : public testing::Test {
 protected:
  // One line, which names the file.
  void ExpectRefused(const std::string& file, const std::string& why, TlsSide side = TlsSide::kDestination) {
    const auto loaded = TlsCredentials::Load(place_.options(), side);
    ASSERT_FALSE(loaded.ok());
    EXPECT_THAT(std::string(loaded.status().message()),
                AllOf(HasSubstr(absl::StrCat(place_.directory(), "/", file)), HasSubstr(why), Not(HasSubstr("\n"))));
  }
  std::string At(const std::string& file) const { return absl::StrCat(place_.directory(), "/", file); }

  TlsPlace place_;
};

TEST_F(TlsCredentialsTest, EachSideLoadsItsOwnFiles) {
  EXPECT_TRUE(TlsCredentials::Load(place_.options(), TlsSide::kDestination).ok());
  EXPECT_TRUE(TlsCredentials::Load(place_.options(), TlsSide::kSource).ok());
  // The other side's key need not be here.
  std::filesystem::remove(At("server-key.pem"));
  std::filesystem::remove(At("server-cert.pem"));
  EXPECT_TRUE(TlsCredentials::Load(place_.options(), TlsSide::kSource).ok());
}

TEST_F(TlsCredentialsTest, OneKindOfThemIsWanted) {
  EXPECT_TRUE(absl::IsInvalidArgument(TlsCredentials::Load({}, TlsSide::kSource).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(
      TlsCredentials::Load({.directory = "/x", .psk_file = "/y", .hostname = ""}, TlsSide::kSource).status()));
}

TEST_F(TlsCredentialsTest, FileThatIsMissingIsNamed) {
  for (const char* file : {"ca-cert.pem", "server-cert.pem", "server-key.pem"}) {
    std::filesystem::rename(At(file), At("away"));
    ExpectRefused(file, "No such file");
    std::filesystem::rename(At("away"), At(file));
  }
}

TEST_F(TlsCredentialsTest, KeyThatOthersCanReadIsRefused) {
  for (const mode_t mode : {0640u, 0604u, 0660u, 0602u}) {
    ASSERT_EQ(chmod(At("server-key.pem").c_str(), mode), 0);
    ExpectRefused("server-key.pem", "chmod 0600");
  }
  ASSERT_EQ(chmod(At("server-key.pem").c_str(), 0400), 0);
  EXPECT_TRUE(TlsCredentials::Load(place_.options(), TlsSide::kDestination).ok());
}

TEST_F(TlsCredentialsTest, CertificateThatOthersCanWriteIsRefused) {
  ASSERT_EQ(chmod(At("ca-cert.pem").c_str(), 0664), 0);
  ExpectRefused("ca-cert.pem", "written by others");
}

TEST_F(TlsCredentialsTest, FileOfAnotherUserIsRefused) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "needs root to give a file away";
  }
  ASSERT_EQ(chown(At("client-key.pem").c_str(), 65534, 65534), 0);
  ExpectRefused("client-key.pem", "belongs to user 65534", TlsSide::kSource);
}

// A user without privileges, whose process is hidden as a monitor is: what it may read it reads, by way of
// /proc/self/fd, and what it may not it names.
TEST_F(TlsCredentialsTest, OrdinaryUserReadsItsOwnFilesAndHearsWhichItMayNot) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "needs root to become another user";
  }
  constexpr uid_t kOrdinary = 65534;
  ASSERT_EQ(chmod(place_.directory().c_str(), 0711), 0);
  ASSERT_EQ(chown(At("client-key.pem").c_str(), kOrdinary, kOrdinary), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (setgroups(0, nullptr) != 0 || setresgid(kOrdinary, kOrdinary, kOrdinary) != 0 ||
        setresuid(kOrdinary, kOrdinary, kOrdinary) != 0 || prctl(PR_SET_DUMPABLE, 0) != 0) {
      _exit(1);
    }
    EXPECT_EQ(TlsCredentials::Load(place_.options(), TlsSide::kSource).status(), absl::OkStatus());
    const auto refused = TlsCredentials::Load(place_.options(), TlsSide::kDestination);
    EXPECT_EQ(refused.status().message(), absl::StrCat("open ", At("server-key.pem"), ": Permission denied"));
    EXPECT_TRUE(absl::IsPermissionDenied(refused.status())) << refused.status();
    _exit(HasFailure() ? 2 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(TlsCredentialsTest, WhatIsNoFileIsRefusedAndNotWaitedFor) {
  std::filesystem::remove(At("server-key.pem"));
  ASSERT_EQ(mkfifo(At("server-key.pem").c_str(), 0600), 0);
  ExpectRefused("server-key.pem", "no regular file");
  std::filesystem::remove(At("server-key.pem"));
  ASSERT_EQ(mkdir(At("server-key.pem").c_str(), 0700), 0);
  ExpectRefused("server-key.pem", "no regular file");
}

TEST_F(TlsCredentialsTest, WhatIsNoPemIsRefused) {
  place_.Write("server-key.pem", "no key");
  ExpectRefused("server-key.pem", "no private key");
  place_.Write("server-key.pem", "");
  ExpectRefused("server-key.pem", "is empty");
  place_.Write("server-key.pem", std::string((1 << 20) + 1, 'x'));
  ExpectRefused("server-key.pem", "more than");
  place_.Write("ca-cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
  ExpectRefused("ca-cert.pem", "no certificate in PEM, or a broken one");
}

TEST_F(TlsCredentialsTest, OneBrokenCertificateAmongOthersIsRefused) {
  std::ostringstream text;
  text << std::ifstream(At("ca-cert.pem")).rdbuf() << "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
  place_.Write("ca-cert.pem", text.str());
  ExpectRefused("ca-cert.pem", "a broken one");
}

TEST_F(TlsCredentialsTest, KeyWithAPassphraseIsRefusedAndNobodyIsAsked) {
  // `openssl ec -aes128 -passout pass:x` of a key of P-256.
  place_.Write("server-key.pem",
               "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
               "DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\n"
               "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END EC PRIVATE KEY-----\n");
  ExpectRefused("server-key.pem", "passphrase");
}

TEST_F(TlsCredentialsTest, CertificateOutOfItsTimeIsRefused) {
  place_.ca().Issue(place_.directory(), "server", {.ends = -absl::Minutes(1)});
  ExpectRefused("server-cert.pem", "is expired");
  place_.ca().Issue(place_.directory(), "server", {.begins = absl::Hours(1)});
  ExpectRefused("server-cert.pem", "is not valid yet");
}

TEST_F(TlsCredentialsTest, CertificateThatTheOtherSideCannotBelieveIsRefused) {
  TestCa("another CA").Issue(place_.directory(), "server");
  ExpectRefused("server-cert.pem", "unable to get local issuer");
  place_.ca().Issue(place_.directory(), "server", {.self_signed = true});
  ExpectRefused("server-cert.pem", "self-signed");
  place_.ca().Issue(place_.directory(), "server", {.usage = "clientAuth"});
  ExpectRefused("server-cert.pem", "purpose");
  place_.ca().Issue(place_.directory(), "client", {.usage = "serverAuth"});
  ExpectRefused("client-cert.pem", "purpose", TlsSide::kSource);
}

TEST_F(TlsCredentialsTest, KeyOfAnotherCertificateIsRefused) {
  std::filesystem::copy_file(At("client-key.pem"), At("server-key.pem"),
                             std::filesystem::copy_options::overwrite_existing);
  ExpectRefused("server-key.pem", "is not the key of");
}

TEST_F(TlsCredentialsTest, LinkOfAnotherUserIsNotFollowed) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "needs root to give a link away";
  }
  std::filesystem::rename(At("server-key.pem"), At("real.pem"));
  std::filesystem::create_symlink("real.pem", At("server-key.pem"));
  EXPECT_TRUE(TlsCredentials::Load(place_.options(), TlsSide::kDestination).ok());
  ASSERT_EQ(lchown(At("server-key.pem").c_str(), 65534, 65534), 0);
  ExpectRefused("server-key.pem", "");
}

constexpr char kHex[] = "00112233445566778899aabbccddeeff";

TEST(PreSharedKeysTest, LinesAreNamesAndKeys) {
  const auto keys = ParsePreSharedKeys(absl::StrCat("# made by psktool\n\nqemu:", kHex, "\r\na:b:", kHex, "AA\n"));
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_EQ((*keys)[0].identity, "qemu");
  EXPECT_EQ((*keys)[0].key, std::string("\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff", 16));
  EXPECT_EQ((*keys)[1].identity, "a:b");
  EXPECT_EQ((*keys)[1].key.size(), 17u);
}

TEST(PreSharedKeysTest, WrongLinesAreNamedAndNothingOfAKeyIsTold) {
  const auto why = [](const std::string& text) { return std::string(ParsePreSharedKeys(text).status().message()); };
  EXPECT_EQ(why(""), "it has no key");
  EXPECT_THAT(why("\nqemu"), HasSubstr("line 2: write IDENTITY:KEY"));
  EXPECT_THAT(why(absl::StrCat(":", kHex)), HasSubstr("line 1"));
  EXPECT_THAT(why("qemu:0011"), HasSubstr("16 to 64"));
  EXPECT_THAT(why(absl::StrCat("qemu:", kHex, "0")), HasSubstr("16 to 64"));
  EXPECT_THAT(why(absl::StrCat("qemu:", std::string(130, '0'))), HasSubstr("16 to 64"));
  EXPECT_EQ(why("qemu:zz112233445566778899aabbccddeeff"), "line 1: the key is not in hexadecimal");
  EXPECT_THAT(why(absl::StrCat(std::string(129, 'x'), ":", kHex)), HasSubstr("128 bytes"));
  EXPECT_THAT(why(absl::StrCat("a\x01:", kHex)), HasSubstr("letters"));
  EXPECT_THAT(why(absl::StrCat("a:", kHex, "\na:", kHex)), HasSubstr("line 2: a second key of a"));
  std::string many;
  for (int i = 0; i < 65; ++i) {
    absl::StrAppend(&many, i, ":", kHex, "\n");
  }
  EXPECT_THAT(why(many), HasSubstr("more than 64 keys"));
}

TEST_F(TlsCredentialsTest, FileOfKeysIsOnesOwnToo) {
  const std::string path = place_.Write("keys.psk", absl::StrCat("qemu:", kHex, "\n"), 0644);
  const TlsOptions options{.directory = "", .psk_file = path, .hostname = ""};
  EXPECT_THAT(std::string(TlsCredentials::Load(options, TlsSide::kSource).status().message()),
              AllOf(HasSubstr(path), HasSubstr("chmod 0600")));
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  EXPECT_TRUE(TlsCredentials::Load(options, TlsSide::kSource).ok());
  place_.Write("keys.psk", "qemu\n");
  EXPECT_THAT(std::string(TlsCredentials::Load(options, TlsSide::kSource).status().message()),
              HasSubstr(absl::StrCat(path, ": line 1: ")));
}

}  // namespace
}  // namespace ferrite::migration
