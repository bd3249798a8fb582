// What a user does about a device that may not be opened.
#ifndef FERRITE_VMM_KVM_PERMISSION_HINT_H_
#define FERRITE_VMM_KVM_PERMISSION_HINT_H_

#include <sys/types.h>

#include <string>

namespace ferrite {

// Who asks, and the device: the numbers of stat(2), and names, empty where the system knows none.
struct RefusedDevice {
  std::string path;
  mode_t mode = 0;
  gid_t gid = 0;
  std::string group;
  uid_t uid = 0;
  std::string user;
};

// To be put after "no permission; ". Names the group only where joining it would help.
std::string PermissionHint(const RefusedDevice& refused);

// The same for the device at `path` and this process.
std::string PermissionHint(const std::string& path);

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_PERMISSION_HINT_H_
