#include "migration/channel/socket/address.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"

namespace ferrite::migration {
namespace {

TEST(AddressTest, UnderstandsItsForms) {
  for (const char* text :
       {"tcp:host:1234", "tcp:[::1]:80", "unix:/run/x", "tcp:127.0.0.1:0", "rdma:192.0.2.7:4000", "rdma:[::1]:80"}) {
    const auto address = ParseAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->ToString(), text);
  }
}

TEST(AddressTest, SaysWhatIsWrong) {
  const std::string long_path = absl::StrCat("unix:/", std::string(200, 'x'));
  for (const char* text :
       {"", "host:1234", "tcp:host", "tcp::1", "tcp:host:", "tcp:host:99999", "tcp:host:-1", "tcp:::1:80",
        "tcp:[::1:80", "unix:", "rdma:", "rdma:host", "rdma:/run/x", long_path.c_str()}) {
    const absl::Status status = ParseAddress(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(status.message().find("tcp:HOST:PORT"), absl::string_view::npos) << status;
  }
}

TEST(AddressTest, IsOneThatCanBeShown) {
  for (const char* text :
       {"tcp:\x1b[2Jhost:1", "unix:/run/\x1b]0;x\a", "unix:/run/a\nto unix:/b", "unix:/\xff", "\x1b"}) {
    const absl::Status status = ParseAddress(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(IsClean(status.message())) << status;
    EXPECT_NE(status.message().find("cannot be shown"), absl::string_view::npos) << status;
  }
}

}  // namespace
}  // namespace ferrite::migration
