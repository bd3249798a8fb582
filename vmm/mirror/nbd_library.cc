#include "vmm/mirror/nbd_library.h"

#include <dlfcn.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/clean_text.h"

namespace ferrite {
namespace {

constexpr char kFile[] = "libnbd.so.0";

absl::StatusOr<NbdLibrary> LoadOnce() {
  // It is not closed again: libraries that it loads (GnuTLS) are not made for that.
  void* const file = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (file == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("NBD needs libnbd, which cannot be loaded (",
                                                      CleanText(dlerror()), "): install Debian's package libnbd0"));
  }
  NbdLibrary library;
#define FERRITE_NBD_FIND(name)                                                                 \
  library.name = reinterpret_cast<decltype(library.name)>(dlsym(file, "nbd_" #name));          \
  if (library.name == nullptr) {                                                               \
    return absl::FailedPreconditionError(                                                      \
        absl::StrCat("NBD needs a newer libnbd than the one here, which has no nbd_", #name)); \
  }
  FERRITE_NBD_FUNCTIONS(FERRITE_NBD_FIND)
#undef FERRITE_NBD_FIND
  return library;
}

}  // namespace

absl::StatusOr<const NbdLibrary*> NbdLibrary::Load() {
  static const auto* const library = new absl::StatusOr<NbdLibrary>(LoadOnce());
  if (!library->ok()) {
    return library->status();
  }
  return &**library;
}

std::string NbdLibrary::LastError() const {
  const char* const error = get_error();
  if (error == nullptr) {
    return "for no known reason";
  }
  absl::string_view text = error;
  // "nbd_aio_notify_read: recv: Connection reset by peer"
  const size_t colon = text.find(": ");
  if (absl::StartsWith(text, "nbd_") && colon != absl::string_view::npos) {
    text.remove_prefix(colon + 2);
  }
  return CleanText(text);
}

}  // namespace ferrite
