// The bytes of version 1, as docs/wire_format.md writes them down. A change here is a change of the protocol: it needs
// a new version, and these samples stay readable.
#include <gtest/gtest.h>

#include <vector>

#include "migration/wire/control_frame.h"
#include "migration/wire/page_header.h"
#include "migration/wire/preamble.h"

namespace ferrite::migration {
namespace {

constexpr std::array<uint8_t, 32> kPagesHeader = {
    0x01, 0x00,                                      // type: PAGES
    0x02, 0x00,                                      // flags: near a page that was asked for
    0x01, 0x00,                                      // region 1
    0x00, 0x00,                                      // reserved
    0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00,  // first page 0x100000
    0x10, 0x00, 0x00, 0x00,                          // 16 pages
    0x00, 0x00, 0x00, 0x00,                          // reserved
    0x00, 0x00, 0x01, 0x00,                          // 65536 bytes follow
    0x19, 0xe4, 0xd5, 0x48,                          // CRC-32C of the above
};

constexpr std::array<uint8_t, 32> kPreamble = {
    0x46, 0x45, 0x52, 0x52, 0x49, 0x54, 0x45, 0x0a,  // "FERRITE\n"
    0x01, 0x00,                                      // lowest version 1
    0x01, 0x00,                                      // newest version 1
    0x01,                                            // role: page
    0x00,                                            // reserved
    0x03, 0x00,                                      // the fourth of them
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07,  // id of the move
    0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
};

const std::vector<uint8_t> kGrantFrame = {
    0x46, 0x43, 0x54, 0x4c, 0x40, 0x00, 0x00, 0x00, 0x9c, 0xbc, 0xfc, 0x7b, 0x7d, 0x26, 0x63, 0xec,
    0x00, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x01, 0x00,
    0x0c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x01, 0x00,
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x82, 0x00, 0x00, 0x00,
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
};

TEST(WireGoldenTest, PageHeader) {
  const PageHeader header{
      .type = PageFrameType::kPages, .flags = kFlagPrefetch, .region = 1, .first_page = 0x100000, .count = 16};
  EXPECT_EQ(EncodePageHeader(header), kPagesHeader);
  const auto decoded = DecodePageHeader(kPagesHeader);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(*decoded, header);
}

TEST(WireGoldenTest, Preamble) {
  Preamble preamble{.lowest_version = 1, .version = 1, .role = ChannelRole::kPage, .index = 3};
  for (uint8_t i = 0; i < preamble.move_id.size(); ++i) {
    preamble.move_id[i] = i;
  }
  EXPECT_EQ(EncodePreamble(preamble), kPreamble);
  EXPECT_EQ(*DecodePreamble(kPreamble), preamble);
}

TEST(WireGoldenTest, GrantFrame) {
  capnp::MallocMessageBuilder message;
  auto grant = message.initRoot<stream::Control>().initGrant();
  const uint8_t id[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  grant.setMoveId(kj::arrayPtr(id, sizeof(id)));
  grant.setEpoch(1);
  EXPECT_EQ(EncodeControl(message), kGrantFrame);
  std::array<uint8_t, kControlHeaderBytes> head;
  std::copy_n(kGrantFrame.begin(), head.size(), head.begin());
  const auto header = DecodeControlHeader(head);
  ASSERT_TRUE(header.ok()) << header.status();
  std::vector<uint64_t> payload(header->length / sizeof(uint64_t));
  std::copy(kGrantFrame.begin() + kControlHeaderBytes, kGrantFrame.end(), reinterpret_cast<uint8_t*>(payload.data()));
  const auto parsed = ControlMessage::Parse(*header, std::move(payload));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->which(), stream::Control::GRANT);
}

}  // namespace
}  // namespace ferrite::migration
