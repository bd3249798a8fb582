// The names of the model-specific registers that a saved state may hold, for messages.
#ifndef FERRITE_VMM_KVM_MSR_NAMES_H_
#define FERRITE_VMM_KVM_MSR_NAMES_H_

#include <cstdint>
#include <string>

namespace ferrite {

inline constexpr uint32_t kMsrTsc = 0x10;
inline constexpr uint32_t kMsrTscDeadline = 0x6e0;

// "TSC_DEADLINE (0x6e0)"; "MSR 0x123" for a register that has no name here.
std::string MsrName(uint32_t index);

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_MSR_NAMES_H_
