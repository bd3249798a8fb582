// A user without privileges, for tests that root runs.
#ifndef FERRITE_VMM_APP_ORDINARY_USER_H_
#define FERRITE_VMM_APP_ORDINARY_USER_H_

#include <sys/types.h>

#include <string>

namespace ferrite {

inline constexpr uid_t kOrdinaryUser = 65'534;

// For a child of root's: makes it the ordinary user, with a /dev/kvm that is everybody's, in a mount namespace of its
// own. `directory` is an empty one to mount over.
void BecomeOrdinaryUser(const std::string& directory);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_ORDINARY_USER_H_
