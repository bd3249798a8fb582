#include "vmm/kvm/permission_hint.h"

#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

constexpr mode_t kGroupMayUse = S_IRGRP | S_IWGRP;

std::string GroupName(gid_t gid) {
  struct group entry;
  struct group* found = nullptr;
  char buffer[4096];
  return getgrgid_r(gid, &entry, buffer, sizeof(buffer), &found) == 0 && found != nullptr ? found->gr_name : "";
}

std::string UserName(uid_t uid) {
  struct passwd entry;
  struct passwd* found = nullptr;
  char buffer[4096];
  return getpwuid_r(uid, &entry, buffer, sizeof(buffer), &found) == 0 && found != nullptr ? found->pw_name : "";
}

}  // namespace

std::string PermissionHint(const RefusedDevice& refused) {
  if (refused.uid == 0) {
    return "not even root has it here: let the container, or the security module, permit the device";
  }
  if ((refused.mode & kGroupMayUse) == kGroupMayUse && refused.gid != 0 && !refused.group.empty()) {
    return absl::StrCat("the group '", refused.group, "' has it: have root run `usermod -aG ", refused.group, " ",
                        refused.user.empty() ? "USER" : refused.user, "`, then log in again; or run as root");
  }
  return absl::StrCat("no group of users has it: have root give it to one (`chgrp kvm ", refused.path, "; chmod 660 ",
                      refused.path, "`, and a udev rule to keep that), or run as root");
}

std::string PermissionHint(const std::string& path) {
  RefusedDevice refused = {.path = path, .uid = geteuid(), .user = UserName(geteuid())};
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0) {
    refused.mode = info.st_mode;
    refused.gid = info.st_gid;
    refused.group = GroupName(info.st_gid);
  }
  return PermissionHint(refused);
}

}  // namespace ferrite
