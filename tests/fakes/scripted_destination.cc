#include "tests/fakes/scripted_destination.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <string>
#include <utility>
#include <variant>

#include "absl/time/time.h"
#include "migration/protocol/messages.h"
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
    page.WriteSome({&word, 1});
  }
  return true;
}

}  // namespace

std::optional<Preamble> ReadPreamble(Stream& stream) {
  std::array<uint8_t, kPreambleBytes> bytes;
  if (!stream.ReadAll(bytes).ok()) {
    return std::nullopt;
  }
  const auto preamble = DecodePreamble(bytes);
  return preamble.ok() ? std::optional(*preamble) : std::nullopt;
}

void Welcome(Stream& control, uint64_t features) {
  EXPECT_EQ(Hear(control), "HELLO");
  (void)SendControl(control, message::Welcome{.version = kOurVersions.newest, .features = features});
  EXPECT_EQ(Hear(control), "MACHINE");
}

void Accept(Stream& control, uint64_t host_page, bool postcopy, uint64_t features) {
  Welcome(control, features);
  (void)SendControl(control, message::Accept{.host_page_bytes = {host_page},
                                             .postcopy = postcopy,
                                             .postcopy_reason = "no userfaultfd: set vm.unprivileged_userfaultfd=1"});
}

ScriptedDestination::ScriptedDestination(MeetingPlace& place, Stream& control, const Options& options)
    : control_(control) {
  Accept(control, 4096, true, options.features);
  for (int i = 0; i < 3; ++i) {
    std::unique_ptr<Stream> stream = place.Accept();
    const auto preamble = stream != nullptr ? ReadPreamble(*stream) : std::nullopt;
    if (!preamble.has_value()) {
      ADD_FAILURE() << "channel " << i << " did not come";
      return;
    }
    if (preamble->role == ChannelRole::kPage) {
      page = std::move(stream);
    } else {
      urgent.push_back(std::move(stream));
    }
  }
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
