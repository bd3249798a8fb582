#include "vmm/app/ordinary_user.h"

#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"

namespace ferrite {

void BecomeOrdinaryUser(const std::string& directory) {
  const std::string kvm = directory + "/kvm";
  struct stat device = {};
  FERRITE_CHECK(stat("/dev/kvm", &device) == 0);
  FERRITE_CHECK(unshare(CLONE_NEWNS) == 0);
  FERRITE_CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
  FERRITE_CHECK(mount("tmpfs", directory.c_str(), "tmpfs", 0, "mode=755") == 0);
  FERRITE_CHECK(mknod(kvm.c_str(), S_IFCHR, device.st_rdev) == 0);
  FERRITE_CHECK(chmod(kvm.c_str(), 0666) == 0);
  FERRITE_CHECK(mount(kvm.c_str(), "/dev/kvm", nullptr, MS_BIND, nullptr) == 0);
  FERRITE_CHECK(setgroups(0, nullptr) == 0 && setgid(kOrdinaryUser) == 0 && setuid(kOrdinaryUser) == 0);
}

}  // namespace ferrite
