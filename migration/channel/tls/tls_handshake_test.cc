// Who gets in, and what is said to who does not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/channel/tls/tls_security.h"
#include "tests/fakes/tls_pair.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {
namespace {

using testing::HasSubstr;

constexpr char kHex[] = "00112233445566778899aabbccddeeff";

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// What a side hears of a connection that the other one gave up: in TLS 1.3 the source is through with its handshake
// before the destination has seen its certificate.
absl::Status SourceHears(TlsPair& pair) {
  if (!pair.source.ok()) {
    return pair.source.status();
  }
  std::array<uint8_t, 1> byte;
  return (*pair.source)->ReadAll(byte);
}

std::string Content(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class TlsHandshakeTest : public testing::Test {
 protected:
  std::shared_ptr<StreamSecurity> Source(const std::string& hostname = "localhost") {
    TlsOptions options = other_.options();
    options.hostname = hostname;
    return SecurityOf(options, TlsSide::kSource);
  }
  // The source's own directory begins as a copy of the place's.
  TlsHandshakeTest() { Copy(place_.ca(), {.name = "source"}); }
  void Copy(const TestCa& ca, const TestCertificate& certificate) {
    ca.WriteCertificate(other_.directory());
    ca.Issue(other_.directory(), "client", certificate);
  }

  TlsPlace place_;
  TlsPlace other_;
};

TEST_F(TlsHandshakeTest, BothKnowEachOther) {
  TlsFacts facts;
  auto destination =
      *TlsSecurity::Create(place_.options(), TlsSide::kDestination, {}, [&](const TlsFacts& told) { facts = told; });
  TlsPair pair = ShakeHands(*Source(), *destination);
  ASSERT_TRUE(pair.source.ok()) << pair.source.status();
  ASSERT_TRUE(pair.destination.ok()) << pair.destination.status();
  EXPECT_EQ(facts.name, "CN=source");
  EXPECT_EQ(facts.cipher, "TLS_AES_128_GCM_SHA256");
  EXPECT_FALSE(facts.kernel_send) << "a unix socket";
  EXPECT_NE((*pair.source)->parties(), "");
  EXPECT_EQ((*pair.source)->parties(), (*pair.destination)->parties());
}

TEST_F(TlsHandshakeTest, NonceIsBoundToTheConnectionAtBothEnds) {
  auto source = Source();
  auto destination = place_.destination();
  TlsPair one = ShakeHands(*source, *destination);
  TlsPair two = ShakeHands(*source, *destination);
  const Nonce nonce{7};
  const Nonce bound = *(*one.source)->Bind(nonce);
  EXPECT_EQ(bound, *(*one.destination)->Bind(nonce));
  EXPECT_NE(bound, nonce);
  EXPECT_NE(bound, *(*two.source)->Bind(nonce)) << "another connection of the same two";
  EXPECT_NE(bound, *(*one.source)->Bind(Nonce{8}));
  EXPECT_EQ((*one.source)->parties(), (*two.source)->parties());
}

TEST_F(TlsHandshakeTest, AnotherCertificateIsAnotherParty) {
  TlsPair one = ShakeHands(*Source(), *place_.destination());
  Copy(place_.ca(), {.name = "source"});
  TlsPair two = ShakeHands(*Source(), *place_.destination());
  ASSERT_TRUE(two.source.ok());
  EXPECT_NE((*one.destination)->parties(), (*two.destination)->parties()) << "of the same name";
}

TEST_F(TlsHandshakeTest, NameIsLookedAt) {
  TlsPair wrong = ShakeHands(*Source("other.example"), *place_.destination());
  EXPECT_THAT(Message(wrong.source.status()), HasSubstr("its certificate is not for other.example: hostname mismatch"));
  EXPECT_FALSE(wrong.destination.ok());
  EXPECT_TRUE(ShakeHands(*Source("127.0.0.1"), *place_.destination()).source.ok());
  EXPECT_THAT(Message(ShakeHands(*Source("127.0.0.2"), *place_.destination()).source.status()),
              HasSubstr("not for 127.0.0.2: IP address mismatch"));
}

TEST_F(TlsHandshakeTest, NameIsTheHostsWhereNoneIsGiven) {
  TlsOptions options = other_.options();
  options.hostname.clear();
  const Address unix_address{.kind = Address::Kind::kUnix, .host = "", .port = "", .path = "/x"};
  const auto none = TlsSecurity::Create(options, TlsSide::kSource, unix_address);
  EXPECT_TRUE(absl::IsInvalidArgument(none.status()));
  EXPECT_THAT(Message(none.status()), HasSubstr("--tls-hostname"));
  const Address tcp{.kind = Address::Kind::kTcp, .host = "localhost", .port = "1", .path = ""};
  const auto right = *TlsSecurity::Create(options, TlsSide::kSource, tcp);
  EXPECT_TRUE(ShakeHands(*right, *place_.destination()).source.ok());
  const Address other{.kind = Address::Kind::kTcp, .host = "host2", .port = "1", .path = ""};
  const auto wrong = *TlsSecurity::Create(options, TlsSide::kSource, other);
  EXPECT_FALSE(ShakeHands(*wrong, *place_.destination()).source.ok());
}

TEST_F(TlsHandshakeTest, SourceOfAnotherCaIsNotLetIn) {
  // It believes the destination, and has a certificate of another CA.
  const TestCa another("another");
  Copy(another, {});
  const auto source =
      SecurityOf({.directory = other_.directory(), .psk_file = "", .hostname = "localhost"}, TlsSide::kSource);
  TlsPair pair = ShakeHands(*source, *place_.destination());
  EXPECT_FALSE(pair.source.ok()) << "neither believes the other";
  EXPECT_THAT(Message(pair.source.status()), HasSubstr("is not believed: "));
  EXPECT_THAT(Message(pair.destination.status()), HasSubstr("it does not know the CA of our certificate"));
}

TEST_F(TlsHandshakeTest, CaOfTheSameNameIsAnotherOne) {
  const TlsPlace place;  // whose CA is as if made anew
  TlsPair pair = ShakeHands(*place.source(), *place_.destination());
  EXPECT_THAT(Message(pair.source.status()),
              HasSubstr("its certificate is not believed: certificate signature failure"));
  EXPECT_FALSE(pair.destination.ok());
}

TEST_F(TlsHandshakeTest, CertificateThatExpiresMeanwhileIsNotBelieved) {
  // It is loaded in time: certificates know whole seconds, so that of these a busy host has two.
  place_.ca().Issue(place_.directory(), "server", {.begins = -absl::Hours(1), .ends = absl::Seconds(3)});
  auto loaded = TlsSecurity::Create(place_.options(), TlsSide::kDestination, {});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  // Until the host's clock says so: there is no other way to have it expire.
  absl::Status status;
  do {
    status = ShakeHands(*Source(), **loaded).source.status();
  } while (status.ok());
  EXPECT_THAT(Message(status), HasSubstr("certificate has expired"));
}

TEST_F(TlsHandshakeTest, SourceHearsWhyItIsNotLetIn) {
  // It believes both CAs, the destination its own alone.
  const std::string known = Content(other_.directory() + "/ca-cert.pem");
  const TestCa another("another");
  Copy(another, {});
  other_.Write("ca-cert.pem", known + Content(other_.directory() + "/ca-cert.pem"), 0644);
  TlsPair pair = ShakeHands(*Source(), *place_.destination());
  EXPECT_THAT(Message(pair.destination.status()), HasSubstr("is not believed: unable to get local issuer certificate"));
  EXPECT_THAT(Message(SourceHears(pair)), HasSubstr("it does not know the CA of our certificate"));
}

TEST_F(TlsHandshakeTest, WhoWritesHearsWhyToo) {
  const std::string known = Content(other_.directory() + "/ca-cert.pem");
  const TestCa another("another");
  Copy(another, {});
  other_.Write("ca-cert.pem", known + Content(other_.directory() + "/ca-cert.pem"), 0644);
  TlsPair pair = ShakeHands(*Source(), *place_.destination());
  ASSERT_TRUE(pair.source.ok());
  const std::vector<uint8_t> bytes(32);
  EXPECT_THAT(Message((*pair.source)->WriteAll(bytes)), HasSubstr("it does not know the CA of our certificate"));
}

TEST_F(TlsHandshakeTest, DestinationWithoutOurKeyHasNoConnection) {
  const TlsOptions ours{.directory = "", .psk_file = place_.Write("a.psk", absl::StrCat("web:", kHex)), .hostname = ""};
  const TlsOptions other_key{
      .directory = "", .psk_file = place_.Write("b.psk", absl::StrCat("web:ff", kHex)), .hostname = ""};
  const TlsOptions other_name{
      .directory = "", .psk_file = place_.Write("c.psk", absl::StrCat("db:", kHex)), .hostname = ""};
  const TlsOptions both{
      .directory = "", .psk_file = place_.Write("d.psk", absl::StrCat("db:ff", kHex, "\nweb:", kHex)), .hostname = ""};
  const auto source = SecurityOf(ours, TlsSide::kSource);
  TlsPair right = ShakeHands(*source, *SecurityOf(both, TlsSide::kDestination));
  ASSERT_TRUE(right.source.ok()) << right.source.status();
  ASSERT_TRUE(right.destination.ok()) << right.destination.status();
  EXPECT_EQ((*right.source)->parties(), "key:web");
  EXPECT_EQ((*right.destination)->parties(), "key:web");

  TlsPair wrong = ShakeHands(*source, *SecurityOf(other_key, TlsSide::kDestination));
  EXPECT_THAT(Message(wrong.destination.status()), HasSubstr("another key of that name"));
  EXPECT_THAT(Message(SourceHears(wrong)), HasSubstr("another key than ours"));
  TlsPair unknown = ShakeHands(*source, *SecurityOf(other_name, TlsSide::kDestination));
  EXPECT_THAT(Message(unknown.destination.status()), HasSubstr("no pre-shared key that we know"));
  EXPECT_THAT(Message(SourceHears(unknown)), HasSubstr("it does not know our pre-shared key"));
}

TEST_F(TlsHandshakeTest, KeysAndCertificatesDoNotMix) {
  const TlsOptions keys{.directory = "", .psk_file = place_.Write("a.psk", absl::StrCat("web:", kHex)), .hostname = ""};
  TlsPair one = ShakeHands(*SecurityOf(keys, TlsSide::kSource), *place_.destination());
  EXPECT_FALSE(one.destination.ok());
  EXPECT_THAT(Message(SourceHears(one)), HasSubstr("it does not know our pre-shared key, and shows a certificate"));
  TlsPair two = ShakeHands(*Source(), *SecurityOf(keys, TlsSide::kDestination));
  EXPECT_FALSE(two.destination.ok());
  EXPECT_THAT(Message(SourceHears(two)), HasSubstr("it wants a pre-shared key"));
}

TEST_F(TlsHandshakeTest, PlainPeerIsTold) {
  auto ends = *MakeStreamPair();
  const auto handshake = *place_.destination()->Start(std::move(ends.second));
  const std::vector<uint8_t> words = {'F', 'E', 'R', 'R', 'I', 'T', 'E', '\n'};
  ASSERT_TRUE(ends.first->WriteAll(words).ok());
  auto step = handshake->Step();
  ASSERT_TRUE(step.ok()) << step.status();
  // It says all that it has to say, however much, and is told nevertheless.
  const std::vector<uint8_t> more(10'000);
  ASSERT_TRUE(ends.first->WriteAll(more).ok());
  for (int i = 0; i < 5; ++i) {
    step = handshake->Step();
    ASSERT_TRUE(step.ok()) << step.status();
    EXPECT_EQ(*step, nullptr);
    EXPECT_EQ(handshake->events(), POLLIN);
  }
  {
    StreamControlChannel control(std::move(ends.first), RealClock());
    EXPECT_THAT(Message(control.Next(absl::ZeroDuration()).status()),
                HasSubstr(" speaks TLS alone, and this side plain"));
  }
  EXPECT_EQ(Message(handshake->Step().status()), "it does not speak TLS");
}

TEST_F(TlsHandshakeTest, PeerThatGoesOrIsSilentIsNotWaitedFor) {
  auto ends = *MakeStreamPair();
  const auto handshake = *Source()->Start(std::move(ends.first));
  auto step = handshake->Step();
  ASSERT_TRUE(step.ok());
  EXPECT_EQ(*step, nullptr);
  ends.second.reset();
  step = handshake->Step();
  EXPECT_THAT(Message(step.status()), HasSubstr("closed the connection in the TLS handshake"));
}

TEST_F(TlsHandshakeTest, ConnectionWithoutTls13IsRefused) {
  // A ClientHello of TLS 1.2 without supported_versions, as far as it is looked at.
  std::vector<uint8_t> hello = {0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3};
  hello.resize(hello.size() + 32);
  for (const uint8_t byte : {0, 0, 2, 0xc0, 0x2f, 1, 0}) {
    hello.push_back(byte);
  }
  auto ends = *MakeStreamPair();
  const auto handshake = *place_.destination()->Start(std::move(ends.second));
  ASSERT_TRUE(ends.first->WriteAll(hello).ok());
  EXPECT_THAT(Message(handshake->Step().status()), HasSubstr("TLS 1.3"));
}

// What is cut off or spoilt at whatever byte ends a handshake at both ends, and nothing is let in that is not whole.
TEST_F(TlsHandshakeTest, HandshakeThatIsCutOffAtAnyByteLetsNobodyIn) {
  const auto source = Source();
  const auto destination = place_.destination();
  // The first flight, as it is on the line.
  auto ends = *MakeStreamPair();
  const auto first = *source->Start(std::move(ends.first));
  ASSERT_TRUE(first->Step().ok());
  std::array<uint8_t, 4096> bytes;
  const size_t size = *ends.second->ReadSome(bytes);
  ASSERT_GT(size, 100u);
  for (size_t cut = 0; cut < size; ++cut) {
    auto line = *MakeStreamPair();
    const auto handshake = *destination->Start(std::move(line.second));
    ASSERT_TRUE(line.first->WriteAll(std::span<const uint8_t>(bytes).first(cut)).ok());
    const auto step = handshake->Step();
    ASSERT_TRUE(step.ok()) << cut << ": " << step.status();
    EXPECT_EQ(*step, nullptr);
    line.first.reset();
    EXPECT_FALSE(handshake->Step().ok()) << cut;
  }
}

}  // namespace
}  // namespace ferrite::migration
