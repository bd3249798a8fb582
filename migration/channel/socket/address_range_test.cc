#include "migration/channel/socket/address_range.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstring>
#include <memory>
#include <vector>

#include "base/clean_text.h"
#include "migration/channel/socket/socket_stream.h"

namespace ferrite::migration {
namespace {

sockaddr_storage Socket(const char* text) {
  sockaddr_storage storage{};
  sockaddr_in v4{.sin_family = AF_INET};
  sockaddr_in6 v6{.sin6_family = AF_INET6};
  if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
    std::memcpy(&storage, &v4, sizeof(v4));
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, text, &v6.sin6_addr), 1) << text;
    std::memcpy(&storage, &v6, sizeof(v6));
  }
  return storage;
}

TEST(AddressRangeTest, HoldsWhatIsUnderItsMask) {
  const struct {
    const char* range;
    const char* address;
    bool holds;
  } rows[] = {
      {"192.0.2.0/24", "192.0.2.0", true},
      {"192.0.2.0/24", "192.0.2.255", true},
      {"192.0.2.0/24", "192.0.3.0", false},
      {"192.0.2.128/25", "192.0.2.127", false},
      {"192.0.2.128/25", "192.0.2.129", true},
      {"192.0.2.7", "192.0.2.7", true},
      {"192.0.2.7", "192.0.2.6", false},
      {"0.0.0.0/0", "203.0.113.9", true},
      {"0.0.0.0/0", "2001:db8::1", false},
      {"2001:db8::/32", "2001:db8:ffff::1", true},
      {"2001:db8::/32", "2001:db9::", false},
      {"2001:db8::/33", "2001:db8:8000::", false},
      {"2001:db8::1", "2001:db8::1", true},
      {"2001:db8::1/128", "2001:db8::2", false},
      {"::/0", "2001:db8::1", true},
      // As a listener of both kinds shows it, and in either form of the range.
      {"192.0.2.0/24", "::ffff:192.0.2.9", true},
      {"192.0.2.0/24", "::ffff:192.0.3.9", false},
      {"::ffff:192.0.2.0/120", "192.0.2.9", true},
      {"::ffff:192.0.2.0/120", "192.0.3.9", false},
      {"::ffff:0:0/96", "203.0.113.9", true},
      {"::/0", "::ffff:192.0.2.9", false},
      {"::/0", "192.0.2.9", false},
  };
  for (const auto& row : rows) {
    const auto range = AddressRange::Parse(row.range);
    ASSERT_TRUE(range.ok()) << range.status();
    EXPECT_EQ(range->Contains(Socket(row.address)), row.holds) << row.range << " and " << row.address;
  }
}

TEST(AddressRangeTest, WhatIsNoneIsRefusedInCleanWords) {
  for (const char* text :
       {"", "/24", "host", "192.0.2/24", "192.0.2.0/33", "192.0.2.0/-1", "192.0.2.0/", "192.0.2.0/x", "192.0.2.7/24",
        "2001:db8::/129", "2001:db8::1/64", "::ffff:192.0.2.0/90", "[::1]/128", "192.0.2.0/24/8", "\x1b[2J"}) {
    const absl::Status status = AddressRange::Parse(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(status.message().find("write 192.0.2.0/24"), absl::string_view::npos) << status;
    EXPECT_TRUE(IsClean(status.message())) << status;
  }
}

TEST(AddressRangeTest, ConnectionWithoutAnAddressIsInNone) {
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  const std::vector<AddressRange> all = {*AddressRange::Parse("0.0.0.0/0"), *AddressRange::Parse("::/0")};
  EXPECT_FALSE(IsFrom(pair->first->fd(), all));
}

}  // namespace
}  // namespace ferrite::migration
