// The processors that this process may use.
#ifndef FERRITE_BASE_PROCESSORS_H_
#define FERRITE_BASE_PROCESSORS_H_

#include <sched.h>

namespace ferrite {

// How many sched_getaffinity(2) allows; 0 where it does not say.
inline int UsableProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 0;
}

}  // namespace ferrite

#endif  // FERRITE_BASE_PROCESSORS_H_
