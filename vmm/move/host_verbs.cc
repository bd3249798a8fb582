#include "vmm/move/host_verbs.h"

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "migration/channel/rdma/ibverbs.h"
#include "vmm/move/engine_host.h"

namespace ferrite {
namespace {

struct Kept {
  absl::Mutex mutex;
  std::unique_ptr<migration::Verbs> verbs ABSL_GUARDED_BY(mutex);
};

}  // namespace

absl::StatusOr<migration::Verbs*> HostVerbs() {
  // Channels may use them as long as the process is there.
  static Kept& kept = *new Kept;
  const absl::MutexLock lock(&kept.mutex);
  if (kept.verbs == nullptr) {
    FERRITE_ASSIGN_OR_RETURN(kept.verbs, migration::LoadIbverbs(EngineHost().clock, EngineHost().threads));
  }
  return kept.verbs.get();
}

}  // namespace ferrite
