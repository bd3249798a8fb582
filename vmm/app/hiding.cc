#include "vmm/app/hiding.h"

#include <sys/prctl.h>

#include <cstring>

#include "absl/base/config.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "base/page_map.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr absl::string_view kSecret = "--cmdline";

// The leak sanitizer looks into its process from another one.
#ifdef ABSL_HAVE_ADDRESS_SANITIZER
constexpr int kDumpable = 1;
#else
constexpr int kDumpable = 0;
#endif

void Overwrite(char* text) { memset(text, '*', strlen(text)); }

}  // namespace

absl::Status HideProcess() {
  absl::Status page_map = OwnPageMap().status();
  if (!page_map.ok() && prctl(PR_GET_DUMPABLE) == 0) {
    // The child of a hidden process is hidden, too, from its first instant on, and its page map is root's.
    (void)prctl(PR_SET_DUMPABLE, 1);
    page_map = OwnPageMap().status();
  }
  if (prctl(PR_SET_DUMPABLE, kDumpable) != 0) {
    return ErrnoStatus("prctl(PR_SET_DUMPABLE)");
  }
  return page_map;
}

void HideCommandLine(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (argv[i] == kSecret && i + 1 < argc) {
      Overwrite(argv[++i]);
    } else if (absl::StartsWith(argv[i], kSecret) && argv[i][kSecret.size()] == '=') {
      Overwrite(argv[i] + kSecret.size() + 1);
    }
  }
}

}  // namespace ferrite
