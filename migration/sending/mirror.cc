#include "migration/sending/mirror.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/sending/dirty_chunks.h"
#include "migration/sending/mirror_job.h"

namespace ferrite::migration {
namespace {

absl::Status CheckSides(const BlockIo& source, const BlockIo& target) {
  if (source.bytes() == 0) {
    return absl::FailedPreconditionError(absl::StrCat("mirror ", source.name(), ": it is empty"));
  }
  if (source.bytes() > target.bytes()) {
    return absl::FailedPreconditionError(absl::StrCat("mirror ", source.name(), " to ", target.name(), ": ",
                                                      source.bytes(), " bytes do not fit into ", target.bytes()));
  }
  for (const BlockIo* const side : {&source, &target}) {
    if (source.bytes() % side->block_bytes() != 0) {
      return absl::FailedPreconditionError(absl::StrCat("mirror ", source.name(), " to ", target.name(), ": ",
                                                        source.bytes(), " bytes are no multiple of the ",
                                                        side->block_bytes(), " bytes of a block of ", side->name()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Mirror>> Mirror::Create(BlockIo& source, BlockIo& target, const MirrorOptions& options,
                                                       Listener& listener) {
  FERRITE_RETURN_IF_ERROR(CheckMirrorOptions(options));
  FERRITE_RETURN_IF_ERROR(CheckSides(source, target));
  const uint32_t block_bytes = std::max(source.block_bytes(), target.block_bytes());
  const uint32_t granularity = std::max(options.granularity, block_bytes);
  const uint32_t unit = std::max(granularity, target.cluster_bytes());
  if (options.buffer_bytes < unit) {
    return absl::InvalidArgumentError(absl::StrCat("buffer ", options.buffer_bytes, ": at least ", unit,
                                                   " bytes, a chunk and what ", target.name(), " allocates at once"));
  }
  std::unique_ptr<Mirror> mirror;
  FERRITE_RETURN_IF_ERROR(CatchOutOfMemory([&]() -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(
        std::unique_ptr<DirtyChunks> chunks,
        DirtyChunks::Create(
            {.bytes = source.bytes(), .granularity = granularity, .cluster_chunks = unit / granularity}));
    auto job = std::make_unique<MirrorJob>(std::move(chunks), block_bytes, options, listener);
    FERRITE_RETURN_IF_ERROR(job->MakeCopier(source, target));
    mirror = std::move(job);
    return absl::OkStatus();
  }));
  return mirror;
}

}  // namespace ferrite::migration
