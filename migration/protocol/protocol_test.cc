#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "migration/protocol/control_frame.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/endian.h"
#include "migration/protocol/lanes.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/page_sums.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/version.h"
#include "tests/fakes/raw_control.h"

namespace ferrite::migration {
namespace {

std::span<const uint8_t> Bytes(absl::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TEST(PageSumsTest, AreThoseOfEachPage) {
  std::vector<uint8_t> pages(9 * 4096);
  for (size_t i = 0; i < pages.size(); ++i) {
    pages[i] = static_cast<uint8_t>(i * 7 + i / 4096);
  }
  for (size_t count = 1; count <= 9; ++count) {
    std::vector<uint32_t> sums(count);
    SumPages(pages, sums);
    for (size_t page = 0; page < count; ++page) {
      EXPECT_EQ(sums[page], Crc32c(std::span<const uint8_t>(pages).subspan(page * 4096, 4096))) << page;
    }
  }
}

TEST(Crc32cTest, MatchesTheSamplesOfRfc3720) {
  EXPECT_EQ(Crc32c(Bytes("123456789")), 0xe3069283u);
  const std::vector<uint8_t> zeroes(32, 0);
  const std::vector<uint8_t> ones(32, 0xff);
  EXPECT_EQ(Crc32c(zeroes), 0x8a9136aau);
  EXPECT_EQ(Crc32c(ones), 0x62a8ab43u);
  // In pieces, of any length.
  EXPECT_EQ(Crc32c(Bytes("6789"), Crc32c(Bytes("12345"))), 0xe3069283u);
}

// Recomputes the checksum of a header that a test has spoilt on purpose.
template <size_t N>
void Seal(std::array<uint8_t, N>& header) {
  PutLittle<uint32_t>(&header[N - 4], Crc32c({header.data(), N - 4}));
}

TEST(PageHeaderTest, RoundTrip) {
  const PageHeader header{.type = PageFrameType::kPages, .region = 3, .first_page = 0x123456789abc, .count = 512};
  const auto decoded = DecodePageHeader(EncodePageHeader(header));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, header);
}

TEST(PageHeaderTest, EveryFlippedBitIsFound) {
  const auto good = EncodePageHeader({.type = PageFrameType::kZero, .region = 1, .first_page = 77, .count = 5});
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    EXPECT_EQ(DecodePageHeader(bad).status().code(), absl::StatusCode::kDataLoss) << bit;
  }
}

TEST(PageHeaderTest, RefusesWhatIsNotAllowed) {
  struct Case {
    const char* what;
    size_t offset;
    uint8_t value;
  };
  // Based on PAGES with one page.
  for (const Case& c : {Case{"type 0", 0, 0}, Case{"type 6", 0, 6}, Case{"reserved", 2, 1}, Case{"reserved", 3, 1},
                        Case{"reserved", 6, 1}, Case{"reserved", 20, 1}, Case{"no pages", 16, 0},
                        Case{"length of two pages", 25, 0x20}, Case{"too many pages", 18, 1}}) {
    auto bytes = EncodePageHeader({.type = PageFrameType::kPages, .count = 1});
    bytes[c.offset] = c.value;
    Seal(bytes);
    EXPECT_EQ(DecodePageHeader(bytes).status().code(), absl::StatusCode::kInvalidArgument) << c.what;
  }
}

// What ends without lanes never say they do not take either.
TEST(PageHeaderTest, FramesOfLanesAreForThoseThatHaveThem) {
  for (const PageHeader& header :
       {PageHeader{.type = PageFrameType::kPages, .region = 1, .count = 512, .bytes = PageBytes::kWritten},
        PageHeader{.type = PageFrameType::kPages, .region = 1, .count = 512, .bytes = PageBytes::kReadable},
        PageHeader{.type = PageFrameType::kRound, .count = 0, .bytes = PageBytes::kWritten},
        PageHeader{.type = PageFrameType::kBarrier}, PageHeader{.type = PageFrameType::kEndRounds},
        PageHeader{.type = PageFrameType::kAskKey, .count = 8192},
        PageHeader{.type = PageFrameType::kKey, .count = 1}}) {
    const auto bytes = EncodePageHeader(header);
    EXPECT_EQ(DecodePageHeader(bytes).status().code(), absl::StatusCode::kInvalidArgument);
    const auto decoded = DecodePageHeader(bytes, Frames::kLanes);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(*decoded, header);
  }
  struct Case {
    const char* what;
    PageHeader header;
  };
  for (const Case& c :
       {Case{"written zeroes", {.type = PageFrameType::kZero, .count = 1, .bytes = PageBytes::kWritten}},
        Case{"a readable round", {.type = PageFrameType::kRound, .count = 1, .bytes = PageBytes::kReadable}},
        Case{"bytes elsewhere", {.type = PageFrameType::kPages, .count = 1, .bytes = static_cast<PageBytes>(3)}},
        Case{"no pages", {.type = PageFrameType::kKey}},
        Case{"too many pages", {.type = PageFrameType::kPages, .count = 513, .bytes = PageBytes::kWritten}},
        Case{"type 15", {.type = static_cast<PageFrameType>(15), .count = 1}},
        Case{"type 20", {.type = static_cast<PageFrameType>(20), .count = 1}}}) {
    EXPECT_EQ(DecodePageHeader(EncodePageHeader(c.header), Frames::kLanes).status().code(),
              absl::StatusCode::kInvalidArgument)
        << c.what;
  }
}

TEST(LanesTest, KeysAndAnswersAreReadAsTheyWereWritten) {
  const RemoteKey key{.given = true, .address = 0x123456789abcdef0, .key = 77};
  EXPECT_EQ(*DecodeRemoteKey(EncodeRemoteKey(key)), key);
  EXPECT_EQ(*DecodeRemoteKey(EncodeRemoteKey({})), RemoteKey{});
  auto bad_key = EncodeRemoteKey(key);
  bad_key[12] = 0;
  EXPECT_FALSE(DecodeRemoteKey(bad_key).ok()) << "a key that was not given";
  bad_key[12] = 2;
  EXPECT_FALSE(DecodeRemoteKey(bad_key).ok());

  const Lanes lanes{.port = 7471, .token = {1, 2, 3}, .reason = ""};
  EXPECT_EQ(*DecodeLanes(EncodeLanes(lanes)), lanes);
  EXPECT_EQ(*DecodeLanes(EncodeLanes({.reason = "no device"})), (Lanes{.reason = "no device"}));
  EXPECT_EQ(DecodeLanes(EncodeLanes({.reason = std::string(1000, 'x')}))->reason, std::string(228, 'x'));
  EXPECT_FALSE(DecodeLanes(EncodeLanes({})).ok()) << "neither lanes nor a reason";
  EXPECT_FALSE(DecodeLanes(EncodeLanes({.port = 1, .reason = "both"})).ok());
  const auto good = EncodeLanes(lanes);
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    EXPECT_EQ(DecodeLanes(bad).status().code(), absl::StatusCode::kDataLoss) << bit;
  }
}

TEST(PreambleTest, LanesAreForPagesAlone) {
  for (const ChannelRole role : {ChannelRole::kPage, ChannelRole::kUrgent}) {
    const Preamble preamble{.role = role, .lanes = true};
    EXPECT_EQ(*DecodePreamble(EncodePreamble(preamble)), preamble);
  }
  for (const ChannelRole role : {ChannelRole::kControl, ChannelRole::kRecover}) {
    EXPECT_FALSE(DecodePreamble(EncodePreamble({.role = role, .lanes = true})).ok());
  }
}

TEST(PreambleTest, RoundTripAndRefusals) {
  Preamble preamble{.lowest_version = 1, .version = 7, .role = ChannelRole::kUrgent, .index = 258};
  preamble.move_id = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
  const auto bytes = EncodePreamble(preamble);
  EXPECT_EQ(*DecodePreamble(bytes), preamble);
  for (const size_t offset : {0, 7, 13}) {
    auto bad = bytes;
    bad[offset] ^= 0x20;
    EXPECT_FALSE(DecodePreamble(bad).ok()) << offset;
  }
  auto role = bytes;
  role[12] = 4;
  EXPECT_FALSE(DecodePreamble(role).ok());
  auto versions = bytes;
  versions[8] = 8;  // the lowest above the newest
  EXPECT_FALSE(DecodePreamble(versions).ok());
}

TEST(PreambleTest, EveryRoleButTheFirstControlChannelHasAProof) {
  for (const auto& [role, has_proof, has_control_frames] :
       {std::tuple(ChannelRole::kControl, false, true), std::tuple(ChannelRole::kPage, true, false),
        std::tuple(ChannelRole::kUrgent, true, false), std::tuple(ChannelRole::kRecover, true, true)}) {
    EXPECT_EQ(DecodePreamble(EncodePreamble({.role = role}))->role, role);
    EXPECT_EQ(HasProof(role), has_proof);
    EXPECT_EQ(HasControlFrames(role), has_control_frames);
  }
}

TEST(ProofTest, RoundTrip) {
  ChannelProof proof{.epoch = 0x0102030405060708};
  std::iota(proof.source.begin(), proof.source.end(), 0x10);
  std::iota(proof.destination.begin(), proof.destination.end(), 0x50);
  std::iota(proof.digest.begin(), proof.digest.end(), 0x90);
  const auto bytes = EncodeProof(proof);
  EXPECT_EQ(DecodeProof(bytes, proof.destination), proof);
  // The challenge is not among them.
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 0x50), 0);
}

TEST(VersionTest, ChoosesTheNewestCommonOne) {
  struct Case {
    VersionRange ours, theirs;
    int chosen;  // 0: none
  };
  for (const Case& c : {Case{{1, 1}, {1, 1}, 1}, Case{{1, 3}, {2, 5}, 3}, Case{{2, 5}, {1, 3}, 3},
                        Case{{1, 1}, {2, 3}, 0}, Case{{2, 3}, {1, 1}, 0}}) {
    const auto chosen = ChooseVersion(c.ours, c.theirs);
    EXPECT_EQ(chosen.ok() ? *chosen : 0, c.chosen);
  }
  EXPECT_NE(ChooseVersion({1, 1}, {2, 3}).status().message().find("2 to 3"), absl::string_view::npos);
}

std::vector<uint8_t> DiscardFrame() {
  return Encode(message::Discard{.ranges = {{.first = 5, .count = 6}, {.region = 1}}, .last = true});
}

TEST(ControlFrameTest, EveryFlippedBitIsFound) {
  const std::vector<uint8_t> good = DiscardFrame();
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::vector<uint8_t> bad = good;
    bad[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    EXPECT_FALSE(DecodeFrame(bad).ok()) << bit;
  }
}

TEST(ControlFrameTest, LengthIsCheckedBeforeMemoryIsTaken) {
  std::array<uint8_t, kControlHeaderBytes> head;
  const std::vector<uint8_t> frame = DiscardFrame();
  for (const uint32_t length : {0u, 12u, kMaxControlBytes + 8, 0xfffffff8u}) {
    std::copy_n(frame.begin(), head.size(), head.begin());
    PutLittle<uint32_t>(&head[4], length);
    Seal(head);
    EXPECT_FALSE(DecodeControlHeader(head).ok()) << length;
  }
}

}  // namespace
}  // namespace ferrite::migration
