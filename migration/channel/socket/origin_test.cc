#include "migration/channel/socket/origin.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <cstring>
#include <memory>
#include <string>

#include "migration/channel/socket/socket_stream.h"

namespace ferrite::migration {
namespace {

std::string Origin(const char* text) {
  sockaddr_storage storage{};
  sockaddr_in v4{.sin_family = AF_INET};
  sockaddr_in6 v6{.sin6_family = AF_INET6};
  if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
    std::memcpy(&storage, &v4, sizeof(v4));
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, text, &v6.sin6_addr), 1) << text;
    std::memcpy(&storage, &v6, sizeof(v6));
  }
  return OriginOf(storage);
}

TEST(OriginTest, OriginIsWhatOneMayHaveManyAddressesOf) {
  EXPECT_EQ(Origin("192.0.2.7"), Origin("::ffff:192.0.2.7"));
  EXPECT_NE(Origin("192.0.2.7"), Origin("192.0.2.8"));
  EXPECT_EQ(Origin("2001:db8::1"), Origin("2001:db8::ffff:1"));
  EXPECT_NE(Origin("2001:db8::1"), Origin("2001:db8:0:1::1"));
  EXPECT_EQ(Origin("127.0.0.1"), Origin("127.9.8.7"));
  EXPECT_EQ(Origin("127.0.0.1"), Origin("::1"));
  auto pair = MakeStreamPair();
  ASSERT_TRUE(pair.ok());
  EXPECT_EQ(OriginOf(pair->first->fd()), Origin("127.0.0.1")) << "a unix socket";
}

}  // namespace
}  // namespace ferrite::migration
