#include "tests/fakes/scripted_destination.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <string>
#include <utility>
#include <variant>

#include "absl/time/time.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/proof.h"
#include "migration/secret/move_secret.h"
#include "migration/session/credentials.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

// Whether a whole page frame could be read.
bool LoseFrame(Stream& page) {
  std::array<uint8_t, kPageHeaderBytes> head;
  if (!page.ReadAll(head).ok()) {
    return false;
  }
  const auto header = DecodePageHeader(head);
  if (!header.ok()) {
    ADD_FAILURE() << header.status();
    return false;
  }
  std::vector<uint8_t> data(header->following_bytes());
  if (!data.empty() && !page.ReadRest(data).ok()) {
    return false;
  }
  if (header->type != PageFrameType::kRound) {
    // Before the switchover nobody listens.
    const uint8_t word = kPlaced;
    (void)page.WriteSome({&word, 1});
  }
  return true;
}

}  // namespace

std::optional<Preamble> ReadPreamble(MeetingPlace& place, Stream& stream) {
  std::array<uint8_t, kPreambleBytes> bytes;
  if (!stream.ReadAll(bytes).ok()) {
    return std::nullopt;
  }
  const auto preamble = DecodePreamble(bytes);
  if (!preamble.ok()) {
    return std::nullopt;
  }
  if (HasProof(preamble->role)) {
    const Nonce challenge = *MakeNonce();
    std::array<uint8_t, kProofBytes> answer;
    if (!stream.WriteAll(challenge).ok() || !stream.ReadAll(answer).ok()) {
      return std::nullopt;
    }
    const ChannelProof proof = DecodeProof(answer, challenge);
    EXPECT_EQ(place.credentials().CheckChannel(*preamble, proof), absl::OkStatus());
    if (preamble->role == ChannelRole::kRecover) {
      place.agreement().credentials.SetControl(proof);
    }
  }
  return *preamble;
}

void Welcome(MeetingPlace& place, Stream& control, uint64_t features) {
  const auto message = ReadControl(control);
  const auto* const hello = message.ok() ? std::get_if<message::Hello>(&*message) : nullptr;
  ASSERT_NE(hello, nullptr) << message.status();
  const KeyExchange& exchange = place.agreement().NewExchange(KeyExchange::Side::kDestination);
  auto secret = exchange.Agree(hello->key, hello->nonce, hello->move_id);
  ASSERT_TRUE(secret.ok()) << secret.status();
  place.agreement().credentials = Credentials(*std::move(secret), hello->nonce, exchange.nonce());
  (void)SendControl(
      control,
      message::Welcome{
          .version = kOurVersions.newest, .features = features, .key = exchange.key(), .nonce = exchange.nonce()});
  EXPECT_EQ(Hear(control), "MACHINE");
}

void Accept(MeetingPlace& place, Stream& control, uint64_t host_page, bool postcopy, uint64_t features) {
  Welcome(place, control, features);
  (void)SendControl(control,
                    message::Accept{.host_page_bytes = {host_page},
                                    .postcopy = postcopy,
                                    .postcopy_reason = "no userfaultfd: set vm.unprivileged_userfaultfd=1",
                                    .digest = place.credentials().Prove(Claim::kAccept, 0).value_or(Digest{})});
}

ScriptedChannels AcceptChannels(MeetingPlace& place) {
  ScriptedChannels channels;
  for (int i = 0; i < 3; ++i) {
    std::unique_ptr<Stream> stream = place.Accept();
    const auto preamble = stream != nullptr ? ReadPreamble(place, *stream) : std::nullopt;
    if (!preamble.has_value()) {
      break;
    }
    if (preamble->role == ChannelRole::kPage) {
      channels.page = std::move(stream);
    } else {
      channels.urgent.push_back(std::move(stream));
    }
  }
  return channels;
}

void SendOpened(MeetingPlace& place, Stream& control, uint64_t epoch) {
  (void)SendControl(control,
                    message::Opened{.digest = place.credentials().Prove(Claim::kOpened, epoch).value_or(Digest{})});
}

ScriptedDestination::ScriptedDestination(MeetingPlace& place, Stream& control, const Options& options)
    : control_(control) {
  Accept(place, control, options.host_page, true, options.features);
  ScriptedChannels channels = AcceptChannels(place);
  page = std::move(channels.page);
  urgent = std::move(channels.urgent);
  if (page == nullptr || urgent.size() != 2) {
    ADD_FAILURE() << "not all channels came";
    return;
  }
  SendOpened(place, control);
  EXPECT_EQ(Hear(control), "ADVISE");
  (void)control.WriteAll(
      EncodeRaw([&](stream::Control::Builder out) { out.initReady().setLoadNanoseconds(options.load_nanoseconds); }));
}

void ScriptedDestination::AwaitSwitchover() {
  std::atomic<bool> over = false;
  Thread takes = StartOrDie("takes", [&] {
    while (!over) {
      (void)SendControl(control_, message::Ping{});
      if (page->AwaitReadable(RealClock(), absl::Milliseconds(20)) && !LoseFrame(*page)) {
        break;
      }
    }
  });
  for (auto message = ReadControl(control_); message.ok(); message = ReadControl(control_)) {
    if (std::holds_alternative<message::Discard>(*message)) {
      break;
    }
  }
  over = true;
  takes.Join();
  (void)SendControl(control_, message::Discarded{});
}

bool ScriptedDestination::AwaitPackage() {
  for (auto message = ReadControl(control_); message.ok(); message = ReadControl(control_)) {
    if (const auto* const discard = std::get_if<message::Discard>(&*message); discard != nullptr && discard->last) {
      (void)SendControl(control_, message::Discarded{});
    }
    if (std::holds_alternative<message::Package>(*message)) {
      return true;
    }
  }
  return false;
}

bool ScriptedDestination::AwaitGrant() {
  if (!AwaitPackage()) {
    return false;
  }
  LosePages();
  (void)SendControl(control_, message::Loaded{});
  return Hear(control_) == "GRANT";
}

void ScriptedDestination::LosePages() {
  losing_ = StartOrDie("loses", [this] {
    std::array<uint8_t, 4096> bytes;
    while (page->ReadAll(bytes).ok()) {
    }
  });
}

void ScriptedDestination::Request(const PageHeader& header) { (void)urgent[0]->WriteAll(EncodePageHeader(header)); }

void ScriptedDestination::HangUp() {
  control_.Shutdown();
  page->Shutdown();
}

}  // namespace ferrite::migration
