#include "migration/placing/memfd_placer.h"

#include "base/status.h"

namespace ferrite::migration {

absl::Status MemfdPlacer::Filled(PageRun run, const uint8_t* buffer) {
  FERRITE_RETURN_IF_ERROR(Write(run, buffer));
  return Placer::Filled(run, buffer);
}

}  // namespace ferrite::migration
