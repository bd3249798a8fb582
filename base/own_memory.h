// What "Bad address" means of a guest's memory.
#ifndef FERRITE_BASE_OWN_MEMORY_H_
#define FERRITE_BASE_OWN_MEMORY_H_

#include <string>

namespace ferrite {

// What follows errno's text of a call that read or wrote guest memory. The addresses are right: EFAULT means that the
// host has no page for one of them, and the words name the control groups that leave none. Otherwise "". `proc` as of
// HugePageGroupLimit().
std::string OwnMemoryWords(int error, const std::string& proc = "/proc/self");

}  // namespace ferrite

#endif  // FERRITE_BASE_OWN_MEMORY_H_
