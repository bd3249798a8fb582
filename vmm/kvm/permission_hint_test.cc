#include "vmm/kvm/permission_hint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

RefusedDevice Device(mode_t mode, gid_t gid, const std::string& group) {
  return {.path = "/dev/kvm", .mode = mode, .gid = gid, .group = group, .uid = 1000, .user = "alice"};
}

TEST(PermissionHintTest, TheGroupIsNamedWhereJoiningItHelps) {
  EXPECT_THAT(PermissionHint(Device(020660, 104, "kvm")), HasSubstr("`usermod -aG kvm alice`"));
  RefusedDevice nameless_user = Device(020660, 104, "virt");
  nameless_user.user = "";
  EXPECT_THAT(PermissionHint(nameless_user), HasSubstr("`usermod -aG virt USER`"));
}

TEST(PermissionHintTest, NobodyIsToldToJoinAGroupInVain) {
  for (const RefusedDevice& refused : {Device(020600, 0, "root"), Device(020660, 0, "root"), Device(020600, 104, "kvm"),
                                       Device(020640, 104, "kvm"), Device(020660, 65534, "")}) {
    const std::string hint = PermissionHint(refused);
    EXPECT_THAT(hint, Not(HasSubstr("usermod"))) << hint;
    EXPECT_THAT(hint, HasSubstr("chmod 660 /dev/kvm")) << hint;
    EXPECT_THAT(hint, HasSubstr("run as root")) << hint;
  }
}

TEST(PermissionHintTest, RootIsNotToldToBecomeRoot) {
  RefusedDevice refused = Device(020666, 0, "root");
  refused.uid = 0;
  EXPECT_THAT(PermissionHint(refused), Not(HasSubstr("run as root")));
}

}  // namespace
}  // namespace ferrite
