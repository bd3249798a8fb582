// Finding pages of zeroes.
#ifndef FERRITE_MIGRATION_SENDING_ZERO_PAGE_H_
#define FERRITE_MIGRATION_SENDING_ZERO_PAGE_H_

#include <cstdint>

namespace ferrite::migration {

// Whether the 4096 bytes at `page` (aligned to 64) are all zero. Looks at a few words first: most pages that are not
// zero show it at once. The guest may write meanwhile; then the answer is that of some moment.
bool IsZeroPage(const uint8_t* page);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_ZERO_PAGE_H_
