// Which pages an instruction touches, where KVM does not say.
#ifndef FERRITE_VMM_MACHINE_TOUCHED_PAGES_H_
#define FERRITE_VMM_MACHINE_TOUCHED_PAGES_H_

#include <linux/kvm.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "memory/guest_address.h"
#include "memory/guest_memory.h"

namespace ferrite {

// Where the page tables of a guest in 64-bit mode have `address`; nothing when they do not have it, or cannot be read.
// No permission counts: KVM_TRANSLATE asks as a kernel, whom SMAP keeps out of its processes' pages.
std::optional<GuestAddress> WalkPageTables(const GuestMemory& memory, const kvm_sregs& sregs, uint64_t address);

// The pages that the registers point at, alone or two of them together, the likelier ones first: what the next
// instruction touches is on one of them, most likely.
std::vector<GuestAddress> TouchedPages(const GuestMemory& memory, const kvm_regs& regs, const kvm_sregs& sregs);

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_TOUCHED_PAGES_H_
