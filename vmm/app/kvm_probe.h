// What `ferrite doctor` finds out about KVM.
#ifndef FERRITE_VMM_APP_KVM_PROBE_H_
#define FERRITE_VMM_APP_KVM_PROBE_H_

#include <string>
#include <vector>

#include "vmm/app/doctor.h"

namespace ferrite {

struct KvmProbe {
  bool runs_linux = false;
  std::string verdict;
  std::vector<Finding> findings;
};

// Opens `path`, reads the capability table, and times code in ring 0 in a scratch VM.
KvmProbe ProbeKvm(const std::string& path = "/dev/kvm");

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_KVM_PROBE_H_
