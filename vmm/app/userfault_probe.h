// What `ferrite doctor` finds out about userfaultfd(2), which post-copy moves stand on.
#ifndef FERRITE_VMM_APP_USERFAULT_PROBE_H_
#define FERRITE_VMM_APP_USERFAULT_PROBE_H_

#include <vector>

#include "vmm/app/doctor.h"

namespace ferrite {

std::vector<Finding> ProbeUserfault();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_USERFAULT_PROBE_H_
