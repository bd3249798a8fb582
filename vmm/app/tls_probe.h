// What `ferrite doctor` finds out about TLS in the kernel.
#ifndef FERRITE_VMM_APP_TLS_PROBE_H_
#define FERRITE_VMM_APP_TLS_PROBE_H_

#include <vector>

#include "vmm/app/doctor.h"

namespace ferrite {

std::vector<Finding> ProbeTls();

// A TCP socket takes the kernel's TLS (Documentation/networking/tls.rst): 0, or says this errno value.
Finding KernelTlsFinding(int error);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_TLS_PROBE_H_
