#include "migration/channel/rdma/rdma_library.h"

#include <dlfcn.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

// They are not closed again: providers that libibverbs loads are not made for that.
absl::StatusOr<void*> Open(const char* name, const char* package) {
  void* const file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (file == nullptr) {
    return absl::UnavailableError(absl::StrCat("RDMA needs ", name, ", which cannot be loaded (", CleanText(dlerror()),
                                               "): install Debian's package ", package));
  }
  return file;
}

absl::Status Lacks(const char* file, const char* function) {
  return absl::UnavailableError(
      absl::StrCat("RDMA needs a newer ", file, " than the one here, which has no ", function));
}

}  // namespace

absl::StatusOr<RdmaLibrary> RdmaLibrary::LoadFrom(const char* verbs_file, const char* cm_file) {
  FERRITE_ASSIGN_OR_RETURN(void* const verbs, Open(verbs_file, "libibverbs1 and ibverbs-providers"));
  FERRITE_ASSIGN_OR_RETURN(void* const cm, Open(cm_file, "librdmacm1"));
  // What dlsym(3) finds is the newest of several, which has the structures of today's verbs.h; where the oldest is the
  // only one it would be found, too.
  if (dlvsym(verbs, "ibv_create_cq", "IBVERBS_1.1") == nullptr) return Lacks(verbs_file, "IBVERBS_1.1");
  RdmaLibrary library;
#define FERRITE_VERBS_FIND(name)                                                            \
  library.verbs.name = reinterpret_cast<decltype(&ibv_##name)>(dlsym(verbs, "ibv_" #name)); \
  if (library.verbs.name == nullptr) return Lacks(verbs_file, "ibv_" #name);
  FERRITE_VERBS_FUNCTIONS(FERRITE_VERBS_FIND)
#undef FERRITE_VERBS_FIND
#define FERRITE_RDMA_CM_FIND(name)                                                      \
  library.cm.name = reinterpret_cast<decltype(&rdma_##name)>(dlsym(cm, "rdma_" #name)); \
  if (library.cm.name == nullptr) return Lacks(cm_file, "rdma_" #name);
  FERRITE_RDMA_CM_FUNCTIONS(FERRITE_RDMA_CM_FIND)
#undef FERRITE_RDMA_CM_FIND
  return library;
}

absl::StatusOr<const RdmaLibrary*> RdmaLibrary::Load() {
  static const auto* const library = new absl::StatusOr<RdmaLibrary>(LoadFrom("libibverbs.so.1", "librdmacm.so.1"));
  if (!library->ok()) return library->status();
  return &**library;
}

}  // namespace ferrite::migration
