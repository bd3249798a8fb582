// Which pages of a region nothing was ever stored in: they need neither be read nor sent.
#ifndef FERRITE_MIGRATION_SENDING_UNTOUCHED_H_
#define FERRITE_MIGRATION_SENDING_UNTOUCHED_H_

#include "absl/status/status.h"
#include "base/page_map.h"
#include "memory/memory_region.h"
#include "memory/page_bitmap.h"

namespace ferrite::migration {

// Adds the pages that have no memory behind them, and so read as zero, to `out`: holes of the file (SEEK_HOLE) or, for
// private memory, pages neither present nor swapped (`page_map`, which is asked for nothing else). Reading such a page
// would fill it. Pages that are touched meanwhile may or may not be among them: track writes first.
absl::Status AddUntouchedPages(const MemoryRegion& region, const PageMapOpener& page_map, PageBitmap& out);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_UNTOUCHED_H_
