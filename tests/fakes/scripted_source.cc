#include "tests/fakes/scripted_source.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "memory/guest_memory.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_sums.h"
#include "migration/protocol/version.h"
#include "migration/secret/move_secret.h"
#include "migration/session/credentials.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/scripted_peer.h"

namespace ferrite::migration {

std::vector<uint8_t> StateOfScriptedGuest() {
  auto memory = GuestMemory::Create(kScriptedBytes, MemoryBacking::kMemfd);
  EXPECT_TRUE(memory.ok()) << memory.status();
  return FakeGuest(**memory, kScriptedWork).Save();
}

void SendOldHello(Stream& control) {
  // It may be closed already.
  (void)control.WriteAll(EncodeRaw([](stream::Control::Builder out) { out.initHello().setVersion(1); }));
}

void SendMachine(MeetingPlace& place, Stream& control) {
  SendMachine(place.agreement(), control, {.regions = {{.bytes = kScriptedBytes, .page_bytes = 4096}}});
}

void HearAccept(MeetingPlace& place, Stream& control) {
  EXPECT_EQ(place.credentials().Check(Claim::kAccept, 0, HearA<message::Accept>(control).digest), absl::OkStatus());
}

void HearOpened(MeetingPlace& place, Stream& control, uint64_t epoch) {
  EXPECT_EQ(place.credentials().Check(Claim::kOpened, epoch, HearA<message::Opened>(control).digest), absl::OkStatus());
}

void SendRecover(Stream& control, uint64_t epoch, uint16_t page_channels) {
  (void)SendControl(
      control,
      message::Recover{.move_id = kScriptedMove, .epoch = epoch, .page_channels = page_channels, .urgent_channels = 1});
}

std::unique_ptr<Stream> DialAndGetWelcome(MeetingPlace& place, uint64_t features) {
  std::unique_ptr<Stream> control = place.Dial(ChannelRole::kControl);
  SendHello(place.agreement(), *control, features);
  HearWelcome(place.agreement(), *control);
  return control;
}

ScriptedSource::ScriptedSource(MeetingPlace& place, uint64_t features) : control(DialAndGetWelcome(place, features)) {
  SendMachine(place, *control);
  HearAccept(place, *control);
  page = place.Dial(ChannelRole::kPage);
  urgent = place.Dial(ChannelRole::kUrgent);
  HearOpened(place, *control);
  EXPECT_TRUE(SendControl(*control, message::Advise{}).ok());
  EXPECT_EQ(Hear(*control), "READY");
}

void ScriptedSource::SendPages(const PageHeader& header, size_t bytes) {
  if (bytes == header.data_bytes()) {
    SendPages(*page, header, 0x5a);
    return;
  }
  SendFrame(header);
  (void)page->WriteAll(std::vector<uint8_t>(header.count * sizeof(uint32_t)));
  (void)page->WriteAll(std::vector<uint8_t>(bytes, 0x5a));
}

void ScriptedSource::SendPages(Stream& stream, const PageHeader& header, uint8_t byte) {
  const std::vector<uint8_t> data(header.data_bytes(), byte);
  std::vector<uint32_t> sums(header.count);
  SumPages(data, sums);
  (void)stream.WriteAll(EncodePageHeader(header));
  (void)stream.WriteAll(std::span(reinterpret_cast<const uint8_t*>(sums.data()), sums.size() * sizeof(uint32_t)));
  (void)stream.WriteAll(std::span<const uint8_t>(data));
}

void ScriptedSource::SendFrame(const PageHeader& header) { (void)page->WriteAll(EncodePageHeader(header)); }

void ScriptedSource::SendZero(uint64_t first_page, uint64_t count) {
  SendFrame({.type = PageFrameType::kZero, .first_page = first_page, .count = static_cast<uint32_t>(count)});
}

void ScriptedSource::SendRound(uint32_t number, bool last) {
  SendFrame({.type = PageFrameType::kRound, .count = number});
  (void)SendControl(*control, message::Round{.number = number, .last = last});
}

void ScriptedSource::SendGrant(uint64_t epoch) {
  (void)SendControl(*control, message::Grant{.move_id = kScriptedMove, .epoch = epoch});
}

void ScriptedSource::SendPackage(const std::vector<uint8_t>& blob, uint64_t length, uint32_t crc, bool postcopy) {
  (void)control->WriteAll(EncodeRaw([&](stream::Control::Builder out) {
    auto package = out.initPackage();
    package.setVersion(1);
    package.setLength(length);
    package.setCrc32c(crc);
    package.setBlob(kj::arrayPtr(blob.data(), blob.size()));
    package.setPostcopy(postcopy);
  }));
}

void ScriptedSource::SendPackage(const std::vector<uint8_t>& blob, bool postcopy) {
  SendPackage(blob, blob.size(), Crc32c(blob), postcopy);
}

bool ScriptedSource::HandOver(uint64_t epoch, bool postcopy) {
  SendRound(1, true);
  SendPackage(StateOfScriptedGuest(), postcopy);
  if (const std::string word = Hear(*control); word != "LOADED") {
    ADD_FAILURE() << "LOADED was due, and not: " << word;
    return false;
  }
  SendGrant(epoch);
  if (const std::string word = Hear(*control); word != "RUNNING") {
    ADD_FAILURE() << "RUNNING was due, and not: " << word;
    return false;
  }
  return true;
}

void ScriptedSource::SendEndOfPages() { SendFrame({.type = PageFrameType::kRound, .count = kLastRound}); }

}  // namespace ferrite::migration
