// The bytes of version 2, as docs/wire_format.md writes them down: every message is encoded to them and read from them.
// A sample that is here stays: version 2 is frozen ("The promise").
//
// The samples are in version2_*.txt: a name, what it says, its bytes. Every field of a Cap'n Proto message is set, so
// that a field that was added shows. When one was added on purpose, keep the file for reading (WhatWasWrittenIsRead;
// its texts may have the new defaults, its bytes stay), name a new one in kFiles, and write it with
//   FERRITE_WRITE_SAMPLES=$PWD/tests/compat bazel run //tests/compat:wire_golden_test
// Of version 1, which is not spoken any more, the preambles are read: its sources are told so. What a move only
// carries, the description of a machine and its state, has versions of its own: 1, and 2 of a state with lost pages,
// whose field came with it. What was written before it is in version2_state_1.txt.
#include <capnp/dynamic.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "memory/guest_address.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/endian.h"
#include "migration/protocol/lanes.h"
#include "migration/protocol/lost_filler.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/page_sums.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/stream.capnp.h"
#include "migration/protocol/version.h"
#include "proto/machine.capnp.h"
#include "tests/compat/filled_message.h"
#include "tests/compat/version2_secret.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/sample_messages.h"
#include "vmm/move/message_bytes.h"
#include "vmm/move/state_blob.h"

namespace ferrite::migration {
namespace {

constexpr std::array<uint8_t, 32> kPagesHeader = {
    0x01, 0x00,                                      // type: PAGES
    0x00, 0x00,                                      // reserved
    0x01, 0x00,                                      // region 1
    0x00, 0x00,                                      // reserved
    0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00,  // first page 0x100000
    0x10, 0x00, 0x00, 0x00,                          // 16 pages
    0x00, 0x00, 0x00, 0x00,                          // reserved
    0x40, 0x00, 0x01, 0x00,                          // 65600 bytes follow
    0xe0, 0xb3, 0x2e, 0xb8,                          // CRC-32C of the above
};

constexpr std::array<uint8_t, 32> kPreamble = {
    0x46, 0x45, 0x52, 0x52, 0x49, 0x54, 0x45, 0x0a,  // "FERRITE\n"
    0x02, 0x00,                                      // lowest version 2
    0x02, 0x00,                                      // newest version 2
    0x01,                                            // role: page
    0x00,                                            // reserved
    0x03, 0x00,                                      // the fourth of them
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,  // id of the move
    0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
};

using Bytes = std::vector<uint8_t>;

struct Sample {
  std::string name;
  std::string text;
  Bytes bytes;
};

// --- What it is encoded to, and read from ---

template <size_t kSize>
std::array<uint8_t, kSize> Head(const Bytes& bytes) {
  std::array<uint8_t, kSize> head{};
  std::copy_n(bytes.begin(), std::min(kSize, bytes.size()), head.begin());
  return head;
}

std::string Text(const PageHeader& header) {
  std::string text = absl::StrFormat("type %d region %d first %d count %d", header.type, header.region,
                                     header.first_page, header.count);
  if (header.bytes != PageBytes::kBehind) {
    absl::StrAppendFormat(&text, " bytes %d", header.bytes);
  }
  return text;
}

std::vector<Sample> PageFrames() {
  std::vector<Sample> samples;
  const std::pair<const char*, PageHeader> rows[] = {
      {"PAGES", {PageFrameType::kPages, 1, 0x0102030405, 512}},
      {"PAGES.one", {PageFrameType::kPages, 2, 1, 1}},
      {"PAGES.some", {PageFrameType::kPages, 1, 0x100000, 16}},
      {"ZERO", {PageFrameType::kZero, 1, 0x0102030405, 0x01020304}},
      {"POISON", {PageFrameType::kPoison, 0xfffe, 7, 1}},
      {"ROUND", {PageFrameType::kRound, 0, 0, 3}},
      {"ROUND.last", {PageFrameType::kRound, 0, 0, 0xffff'ffff}},
      {"REQUEST", {PageFrameType::kRequest, 1, 0x200, 512}},
  };
  for (const auto& [name, header] : rows) {
    const auto bytes = EncodePageHeader(header);
    samples.push_back({name, Text(header), Bytes(bytes.begin(), bytes.end())});
  }
  return samples;
}

absl::StatusOr<std::string> ReadPageFrame(const Bytes& bytes) {
  const auto header = DecodePageHeader(Head<kPageHeaderBytes>(bytes));
  return header.ok() ? absl::StatusOr<std::string>(Text(*header)) : header.status();
}

// What ends that have lanes say, besides.
std::vector<Sample> LaneFrames() {
  std::vector<Sample> samples;
  const std::pair<const char*, PageHeader> rows[] = {
      {"PAGES.written", {PageFrameType::kPages, 1, 0x0102030405, 512, PageBytes::kWritten}},
      {"PAGES.readable", {PageFrameType::kPages, 1, 0x0102030405, 512, PageBytes::kReadable}},
      {"ROUND.written", {PageFrameType::kRound, 0, 0, 3, PageBytes::kWritten}},
      {"BARRIER", {PageFrameType::kBarrier, 0, 0, 0x01020304}},
      {"END_ROUNDS", {PageFrameType::kEndRounds, 0, 0, 0}},
      {"ASK_KEY", {PageFrameType::kAskKey, 2, 0x2000, 0x2000}},
      {"KEY", {PageFrameType::kKey, 2, 0x2000, 0x2000}},
  };
  for (const auto& [name, header] : rows) {
    const auto bytes = EncodePageHeader(header);
    samples.push_back({name, Text(header), Bytes(bytes.begin(), bytes.end())});
  }
  return samples;
}

absl::StatusOr<std::string> ReadLaneFrame(const Bytes& bytes) {
  const auto header = DecodePageHeader(Head<kPageHeaderBytes>(bytes), Frames::kLanes);
  return header.ok() ? absl::StatusOr<std::string>(Text(*header)) : header.status();
}

std::string Text(const RemoteKey& key) {
  return absl::StrFormat("given %d address %d key %d", key.given, key.address, key.key);
}

std::vector<Sample> RemoteKeys() {
  std::vector<Sample> samples;
  for (const auto& [name, key] : {std::pair<const char*, RemoteKey>{"key", {true, 0x0102030405060708, 0x090a0b0c}},
                                  std::pair<const char*, RemoteKey>{"none", {}}}) {
    const auto bytes = EncodeRemoteKey(key);
    samples.push_back({name, Text(key), Bytes(bytes.begin(), bytes.end())});
  }
  return samples;
}

absl::StatusOr<std::string> ReadRemoteKey(const Bytes& bytes) {
  const auto key = DecodeRemoteKey(Head<kRemoteKeyBytes>(bytes));
  return key.ok() ? absl::StatusOr<std::string>(Text(*key)) : key.status();
}

std::string Text(const Lanes& lanes) {
  return absl::StrFormat(
      "port %d token %s reason %s", lanes.port,
      absl::BytesToHexString({reinterpret_cast<const char*>(lanes.token.data()), lanes.token.size()}), lanes.reason);
}

std::vector<Sample> LaneAnswers() {
  std::vector<Sample> samples;
  Lanes given{.port = 0x0102};
  std::iota(given.token.begin(), given.token.end(), 3);
  for (const auto& [name, lanes] : {std::pair<const char*, Lanes>{"lanes", given},
                                    std::pair<const char*, Lanes>{"none", {.reason = "no device"}}}) {
    const auto bytes = EncodeLanes(lanes);
    samples.push_back({name, Text(lanes), Bytes(bytes.begin(), bytes.end())});
  }
  return samples;
}

absl::StatusOr<std::string> ReadLaneAnswer(const Bytes& bytes) {
  const auto lanes = DecodeLanes(Head<kLanesBytes>(bytes));
  return lanes.ok() ? absl::StatusOr<std::string>(Text(*lanes)) : lanes.status();
}

std::string Text(const Preamble& preamble) {
  return absl::StrCat(preamble.lanes ? "lanes " : "",
                      absl::StrFormat("lowest %d newest %d role %d index %d move %s", preamble.lowest_version,
                                      preamble.version, preamble.role, preamble.index,
                                      absl::BytesToHexString({reinterpret_cast<const char*>(preamble.move_id.data()),
                                                              preamble.move_id.size()})));
}

std::vector<Sample> Preambles() {
  std::vector<Sample> samples;
  MoveId id;
  std::iota(id.begin(), id.end(), 0);
  const std::pair<const char*, Preamble> rows[] = {
      {"control", {2, 2, ChannelRole::kControl, 0, id}},         {"page", {2, 2, ChannelRole::kPage, 3, id}},
      {"urgent", {2, 0x0203, ChannelRole::kUrgent, 0x0102, id}}, {"recover", {2, 2, ChannelRole::kRecover, 0, id}},
      {"page.lanes", {2, 2, ChannelRole::kPage, 3, id, true}},
  };
  for (const auto& [name, preamble] : rows) {
    const auto bytes = EncodePreamble(preamble);
    samples.push_back({name, Text(preamble), Bytes(bytes.begin(), bytes.end())});
  }
  return samples;
}

absl::StatusOr<std::string> ReadPreamble(const Bytes& bytes) {
  const auto preamble = DecodePreamble(Head<kPreambleBytes>(bytes));
  return preamble.ok() ? absl::StatusOr<std::string>(Text(*preamble)) : preamble.status();
}

std::string Hex(std::span<const uint8_t> bytes) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

// Header and sums of a page of numbers and of one that was lost while it left.
std::vector<Sample> Sums() {
  std::vector<uint8_t> pages(2 * kPageBytes);
  for (size_t i = 0; i < kPageBytes; ++i) {
    pages[i] = static_cast<uint8_t>(7 * i);
  }
  std::ranges::copy(LostFiller(), pages.begin() + kPageBytes);
  std::array<uint32_t, 2> sums;
  SumPages(pages, sums);
  const auto header = EncodePageHeader({PageFrameType::kPages, 1, 2, 2});
  Bytes bytes(header.begin(), header.end());
  for (const uint32_t sum : sums) {
    bytes.resize(bytes.size() + sizeof(sum));
    PutLittle<uint32_t>(&bytes[bytes.size() - sizeof(sum)], sum);
  }
  const Bytes filler(LostFiller().begin(), LostFiller().begin() + 16);
  return {{"PAGES.sums", "7 * i, filler", bytes}, {"filler", "LOSTPAGELOSTPAGE", filler}};
}

absl::StatusOr<std::string> ReadSums(const Bytes& bytes) {
  for (const Sample& sample : Sums()) {
    if (sample.bytes == bytes) {
      return sample.text;
    }
  }
  return absl::DataLossError("other sums");
}

// Of keys that everybody knows: the secret, and a digest by it of each claim. The engine's keys are random; that it
// agrees with these is in version2_agrees_test.
std::vector<Sample> Secrets() {
  const version2::Bytes32 source = SampleBytes(1);
  const version2::Bytes32 destination = SampleBytes(0x81);
  const version2::Greeting greeting{.move_id = kSampleMoveId,
                                    .source_key = version2::PublicKeyOf(source),
                                    .source_nonce = SampleBytes(0x21),
                                    .destination_key = version2::PublicKeyOf(destination),
                                    .destination_nonce = SampleBytes(0x41)};
  const version2::Bytes32 secret = version2::SecretOf(source, greeting.destination_key, greeting);
  EXPECT_EQ(secret, version2::SecretOf(destination, greeting.source_key, greeting));
  std::vector<Sample> samples = {
      {"secret", "of private keys from 0x01 and 0x81 on", Bytes(secret.begin(), secret.end())}};
  for (uint8_t claim = 1; claim <= 6; ++claim) {
    const version2::Bytes32 digest = version2::DigestOf(secret, {.claim = static_cast<version2::Claim>(claim),
                                                                 .role = version2::Role::kUrgent,
                                                                 .index = 0x0102,
                                                                 .epoch = 0x0304050607080910,
                                                                 .source = greeting.source_nonce,
                                                                 .destination = greeting.destination_nonce});
    samples.push_back({absl::StrCat("digest.", claim), absl::StrCat("claim ", claim, " role 2 index 258"),
                       Bytes(digest.begin(), digest.end())});
  }
  return samples;
}

absl::StatusOr<std::string> ReadSecret(const Bytes& bytes) {
  for (const Sample& sample : Secrets()) {
    if (sample.bytes == bytes) {
      return sample.text;
    }
  }
  return absl::DataLossError("another secret");
}

std::vector<Sample> Proofs() {
  const ChannelProof proof{
      .epoch = 0x0102030405060708, .source = SampleBytes(0x10), .destination = {}, .digest = SampleBytes(0x50)};
  const auto bytes = EncodeProof(proof);
  return {{"proof", absl::StrFormat("epoch %d nonce %s digest %s", proof.epoch, Hex(proof.source), Hex(proof.digest)),
           Bytes(bytes.begin(), bytes.end())}};
}

absl::StatusOr<std::string> ReadProof(const Bytes& bytes) {
  const ChannelProof proof = DecodeProof(Head<kProofBytes>(bytes), Nonce{});
  return absl::StrFormat("epoch %d nonce %s digest %s", proof.epoch, Hex(proof.source), Hex(proof.digest));
}

// One of every member but the first, which stands for those that are not known.
std::vector<Sample> ControlFrames() {
  std::vector<Sample> samples;
  const auto schema = capnp::Schema::from<stream::Control>();
  for (uint32_t i = 1; i < Variants(schema); ++i) {
    capnp::MallocMessageBuilder message;
    auto control = message.initRoot<stream::Control>();
    Filler().Struct(control, i);
    EXPECT_EQ(static_cast<uint32_t>(control.which()), i);
    samples.push_back({schema.getUnionFields()[i].getProto().getName().cStr(), kj::str(control.asReader()).cStr(),
                       EncodeControl(message)});
  }
  return samples;
}

absl::StatusOr<std::string> ReadControlFrame(const Bytes& bytes) {
  const auto header = DecodeControlHeader(Head<kControlHeaderBytes>(bytes));
  if (!header.ok()) {
    return header.status();
  }
  if (bytes.size() != kControlHeaderBytes + header->length) {
    return absl::OutOfRangeError("another length");
  }
  const std::span<const uint8_t> payload = std::span(bytes).subspan(kControlHeaderBytes);
  if (absl::Status status = CheckControlPayload(*header, payload); !status.ok()) {
    return status;
  }
  kj::Array<capnp::word> words = kj::heapArray<capnp::word>(payload.size() / sizeof(capnp::word));
  std::ranges::copy(payload, words.asBytes().begin());
  capnp::FlatArrayMessageReader message(words);
  return kj::str(message.getRoot<stream::Control>()).cStr();
}

// As our encoder writes them.
std::vector<Sample> Messages() {
  std::vector<Sample> samples;
  for (const Message& message : SampleMessages()) {
    const Bytes bytes = Encode(message);
    samples.push_back({std::string(MessageName(message)), *ReadControlFrame(bytes), bytes});
  }
  return samples;
}

// And as our decoder reads them.
absl::StatusOr<std::string> ReadMessage(const Bytes& bytes) {
  const absl::StatusOr<Message> message = DecodeFrame(bytes);
  return message.ok() ? ReadControlFrame(Encode(*message)) : message.status();
}

std::vector<Sample> Machines() {
  capnp::MallocMessageBuilder message;
  auto machine = message.initRoot<state::MachineDescription>();
  Filler().Struct(machine, 0);
  return {{"machine", kj::str(machine.asReader()).cStr(), EncodeBytes(message)}};
}

absl::StatusOr<std::string> ReadMachine(const Bytes& bytes) {
  std::string text;
  const absl::Status status = DecodeBytes(bytes, "description", 8, [&](capnp::MessageReader& reader) {
    text = kj::str(reader.getRoot<state::MachineDescription>()).cStr();
    return absl::OkStatus();
  });
  return status.ok() ? absl::StatusOr<std::string>(text) : status;
}

std::vector<Sample> SavedStates() {
  capnp::MallocMessageBuilder message;
  auto machine = message.initRoot<state::Machine>();
  Filler().Struct(machine, 0);
  return {{"machine", kj::str(machine.asReader()).cStr(), EncodeState(message)}};
}

absl::StatusOr<std::string> ReadState(const Bytes& bytes) {
  std::string text;
  const absl::Status status = DecodeState(bytes, [&](state::Machine::Reader machine) {
    text = kj::str(machine).cStr();
    return absl::OkStatus();
  });
  return status.ok() ? absl::StatusOr<std::string>(text) : status;
}

// --- The files ---

struct File {
  const char* name;
  std::vector<Sample> (*write)();  // null: nobody writes it any more
  absl::StatusOr<std::string> (*read)(const Bytes& bytes);
};

const File kFiles[] = {
    {"version2_pages.txt", PageFrames, ReadPageFrame}, {"version2_preambles.txt", Preambles, ReadPreamble},
    {"version2_proofs.txt", Proofs, ReadProof},        {"version2_control.txt", ControlFrames, ReadControlFrame},
    {"version2_messages.txt", Messages, ReadMessage},  {"version1_preambles.txt", nullptr, ReadPreamble},
    {"version2_machine.txt", Machines, ReadMachine},   {"version2_state.txt", SavedStates, ReadState},
    {"version2_state_1.txt", nullptr, ReadState},      {"version2_sums.txt", Sums, ReadSums},
    {"version2_secrets.txt", Secrets, ReadSecret},     {"version2_lane_frames.txt", LaneFrames, ReadLaneFrame},
    {"version2_keys.txt", RemoteKeys, ReadRemoteKey},  {"version2_lanes.txt", LaneAnswers, ReadLaneAnswer},
};

constexpr size_t kBytesInALine = 60;

void WriteSamples(const std::string& path, const std::vector<Sample>& samples) {
  std::ofstream out(path);
  for (const Sample& sample : samples) {
    out << sample.name << "\n" << sample.text << "\n";
    for (size_t at = 0; at < sample.bytes.size(); at += kBytesInALine) {
      out << "  "
          << absl::BytesToHexString({reinterpret_cast<const char*>(sample.bytes.data()) + at,
                                     std::min(kBytesInALine, sample.bytes.size() - at)})
          << "\n";
    }
  }
  ASSERT_TRUE(out.flush().good()) << path;
}

std::vector<Sample> ReadSamples(const std::string& path) {
  std::vector<Sample> samples;
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    absl::string_view hex = line;
    if (absl::ConsumePrefix(&hex, "  ") && !samples.empty()) {
      const std::string bytes = absl::HexStringToBytes(hex);
      samples.back().bytes.insert(samples.back().bytes.end(), bytes.begin(), bytes.end());
    } else {
      samples.push_back({line, "", {}});
      std::getline(in, samples.back().text);
    }
  }
  return samples;
}

class WireGoldenTest : public testing::TestWithParam<File> {
 protected:
  void SetUp() override {
    if (const char* directory = getenv("FERRITE_WRITE_SAMPLES"); directory != nullptr) {
      if (GetParam().write == nullptr) {
        GTEST_SKIP() << "nobody writes it any more";
      }
      WriteSamples(absl::StrCat(directory, "/", GetParam().name), GetParam().write());
      GTEST_SKIP() << "the samples were written";
    }
    samples_ = ReadSamples(absl::StrCat("tests/compat/", GetParam().name));
  }

  std::vector<Sample> samples_;
};

TEST_P(WireGoldenTest, EverythingIsWrittenAsItWas) {
  if (GetParam().write == nullptr) {
    GTEST_SKIP() << "nobody writes it any more";
  }
  const std::vector<Sample> ours = GetParam().write();
  ASSERT_EQ(ours.size(), samples_.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_EQ(ours[i].name, samples_[i].name);
    EXPECT_EQ(ours[i].bytes, samples_[i].bytes) << ours[i].name;
  }
}

TEST_P(WireGoldenTest, WhatWasWrittenIsRead) {
  EXPECT_FALSE(samples_.empty());
  for (const Sample& sample : samples_) {
    const auto text = GetParam().read(sample.bytes);
    ASSERT_TRUE(text.ok()) << sample.name << ": " << text.status();
    EXPECT_EQ(*text, sample.text) << sample.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Files, WireGoldenTest, testing::ValuesIn(kFiles), [](const auto& info) {
  const std::string name = info.param.name;
  return name.substr(0, name.find('.'));
});

// Its sources say so in their preambles, which are read for that.
TEST(VersionOneTest, IsRefusedWithBothRanges) {
  int refused = 0;
  for (const Sample& sample : ReadSamples("tests/compat/version1_preambles.txt")) {
    const auto preamble = DecodePreamble(Head<kPreambleBytes>(sample.bytes));
    ASSERT_TRUE(preamble.ok()) << sample.name << ": " << preamble.status();
    if (preamble->version == 1) {
      ++refused;
      EXPECT_EQ(ChooseVersion(kOurVersions, {.lowest = preamble->lowest_version, .newest = preamble->version})
                    .status()
                    .message(),
                "no common version of the move protocol: this side speaks 2 to 2, the other 1 to 1; update the older "
                "one");
    }
  }
  EXPECT_EQ(refused, 2);
}

// Two of the samples byte by byte.
TEST(WireLayoutTest, PageHeader) {
  const PageHeader header{.type = PageFrameType::kPages, .region = 1, .first_page = 0x100000, .count = 16};
  EXPECT_EQ(EncodePageHeader(header), kPagesHeader);
  const auto decoded = DecodePageHeader(kPagesHeader);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, header);
}

TEST(WireLayoutTest, Preamble) {
  Preamble preamble{.lowest_version = 2, .version = 2, .role = ChannelRole::kPage, .index = 3};
  std::iota(preamble.move_id.begin(), preamble.move_id.end(), 0);
  EXPECT_EQ(EncodePreamble(preamble), kPreamble);
  EXPECT_EQ(*DecodePreamble(kPreamble), preamble);
}

}  // namespace
}  // namespace ferrite::migration
