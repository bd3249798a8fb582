#include "vmm/mirror/target_name.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clean_text.h"

namespace ferrite {
namespace {

constexpr absl::string_view kForms =
    "an NBD target is nbd:unix:PATH[:EXPORT], nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH";

// `scheme` is what stands before the first colon.
bool IsNbdScheme(absl::string_view scheme) {
  if (!absl::ConsumeSuffix(&scheme, "+unix")) {
    absl::ConsumeSuffix(&scheme, "+vsock");
  }
  return scheme == "nbd" || scheme == "nbds";
}

// Whether the query of `uri` has `parameter` with a value.
bool HasParameter(absl::string_view uri, absl::string_view parameter) {
  uri = uri.substr(0, uri.find('#'));
  const size_t question = uri.find('?');
  for (absl::string_view query = question == uri.npos ? "" : uri.substr(question + 1); !query.empty();) {
    const size_t end = query.find_first_of("&;");
    absl::string_view one = query.substr(0, end);
    if (absl::ConsumePrefix(&one, parameter) && absl::ConsumePrefix(&one, "=") && !one.empty()) {
      return true;
    }
    query = end == query.npos ? "" : query.substr(end + 1);
  }
  return false;
}

absl::StatusOr<TargetName> ParseUnix(absl::string_view text, absl::string_view rest) {
  const size_t colon = rest.find(':');
  TargetName name = {.kind = TargetName::Kind::kNbdUnix,
                     .text = std::string(text),
                     .socket = std::string(rest.substr(0, colon)),
                     .export_name = ""};
  if (name.socket.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(text, " names no socket: ", kForms));
  }
  if (colon != rest.npos) {
    name.export_name = std::string(absl::StripPrefix(rest.substr(colon + 1), "exportname="));
  }
  return name;
}

}  // namespace

absl::StatusOr<TargetName> ParseTargetName(absl::string_view text) {
  if (text.empty()) {
    return absl::InvalidArgumentError("the target has no name");
  }
  if (!IsClean(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the name of the target has characters that cannot be shown: ", CleanText(text)));
  }
  const size_t colon = text.find(':');
  if (colon == text.npos || !IsNbdScheme(text.substr(0, colon))) {
    return TargetName{.kind = TargetName::Kind::kPath, .text = std::string(text), .socket = "", .export_name = ""};
  }
  const absl::string_view scheme = text.substr(0, colon);
  absl::string_view rest = text.substr(colon + 1);
  if (scheme == "nbd" && absl::ConsumePrefix(&rest, "unix:")) {
    return ParseUnix(text, rest);
  }
  if (!absl::StartsWith(rest, "//")) {
    return absl::InvalidArgumentError(
        absl::StrCat(text, " cannot be used: ", kForms, "; a file of this name is ./", text));
  }
  if (absl::StrContains(scheme, "+unix") && !HasParameter(text, "socket")) {
    return absl::InvalidArgumentError(absl::StrCat(text, " names no socket: ", kForms));
  }
  // Without them libnbd trusts whoever answers.
  if (absl::StartsWith(scheme, "nbds") && !HasParameter(text, "tls-certificates") &&
      !HasParameter(text, "tls-psk-file")) {
    return absl::InvalidArgumentError(absl::StrCat(
        text, " does not say how the server proves who it is: add ?tls-certificates=DIRECTORY or ?tls-psk-file=FILE"));
  }
  return TargetName{.kind = TargetName::Kind::kNbdUri, .text = std::string(text), .socket = "", .export_name = ""};
}

}  // namespace ferrite
