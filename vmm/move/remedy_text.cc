#include "vmm/move/remedy_text.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/api/remedy.h"

namespace ferrite {
namespace {

absl::string_view TextOf(migration::Remedy remedy) {
  switch (remedy) {
    case migration::Remedy::kNone:
      return "";
    case migration::Remedy::kForce:
      return "; --force takes the guest back all the same";
    case migration::Remedy::kLookAtTheirHost:
      return "; `ferrite doctor` there says why";
    case migration::Remedy::kNameDiskCopy:
      return "; `ferrite receive --disk-copy ID=PATH` names it there";
  }
  return "";
}

}  // namespace

absl::Status WithRemedyText(const absl::Status& error) {
  const absl::string_view text = TextOf(migration::RemedyOf(error));
  return text.empty() ? error : Reworded(error, absl::StrCat(error.message(), text));
}

}  // namespace ferrite
