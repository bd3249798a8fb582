#include "migration/channel/socket/address.h"

#include <sys/un.h>

#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clean_text.h"

namespace ferrite::migration {
namespace {

constexpr size_t kMaxUnixPath = sizeof(sockaddr_un{}.sun_path) - 1;

absl::Status Wrong(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "address '", CleanText(text), "': ", why, "; write tcp:HOST:PORT, tcp:[IPV6]:PORT, rdma:HOST:PORT or unix:PATH"));
}

}  // namespace

std::string Address::ToString() const {
  if (kind == Kind::kUnix) {
    return absl::StrCat("unix:", path);
  }
  const bool v6 = host.find(':') != std::string::npos;
  return absl::StrCat(kind == Kind::kRdma ? "rdma:" : "tcp:", v6 ? "[" : "", host, v6 ? "]:" : ":", port);
}

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  if (!IsClean(text)) {
    // It stands in logs, in records, and on terminals.
    return Wrong(text, "it has characters that cannot be shown");
  }
  Address address;
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "unix:")) {
    if (rest.empty()) {
      return Wrong(text, "the path is missing");
    }
    if (rest.size() > kMaxUnixPath) {
      return Wrong(text, absl::StrCat("the path has ", rest.size(), " bytes, a socket's has at most ", kMaxUnixPath));
    }
    address.kind = Address::Kind::kUnix;
    address.path = std::string(rest);
    return address;
  }
  if (absl::ConsumePrefix(&rest, "rdma:")) {
    address.kind = Address::Kind::kRdma;
  } else if (!absl::ConsumePrefix(&rest, "tcp:")) {
    return Wrong(text, "the kind is missing");
  }
  const size_t colon = rest.rfind(':');
  if (colon == absl::string_view::npos) {
    return Wrong(text, "the port is missing");
  }
  absl::string_view host = rest.substr(0, colon);
  const absl::string_view port = rest.substr(colon + 1);
  if (absl::ConsumePrefix(&host, "[")) {
    if (!absl::ConsumeSuffix(&host, "]")) {
      return Wrong(text, "the ']' is missing");
    }
  } else if (host.find(':') != absl::string_view::npos) {
    return Wrong(text, "an IPv6 address stands in brackets");
  }
  uint32_t number = 0;
  if (!absl::SimpleAtoi(port, &number) || number > 65535) {
    return Wrong(text, absl::StrCat("'", port, "' is no port (0 to 65535)"));
  }
  if (host.empty()) {
    return Wrong(text, "the host is missing");
  }
  address.host = std::string(host);
  address.port = std::string(port);
  return address;
}

}  // namespace ferrite::migration
