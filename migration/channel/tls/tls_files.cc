#include "migration/channel/tls/tls_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ctime>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/directory.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

constexpr size_t kMostBytes = 1 << 20;
constexpr size_t kMostKeys = 64;
constexpr size_t kMostIdentityBytes = 128;
constexpr size_t kLeastKeyBytes = 16;
constexpr size_t kMostKeyBytes = 64;

absl::Status CheckFile(const std::string& path, const struct stat& info, Secrecy secrecy) {
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is no regular file"));
  }
  if (!TrustedHere().Include(info.st_uid)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " belongs to user ", info.st_uid, ", who is neither root nor this one"));
  }
  const mode_t others = secrecy == Secrecy::kSecret ? 077 : 022;
  if ((info.st_mode & others) != 0) {
    return absl::FailedPreconditionError(absl::StrFormat("%s can be %s by others (mode %04o): chmod %s", path,
                                                         secrecy == Secrecy::kSecret ? "read or written" : "written",
                                                         static_cast<unsigned>(info.st_mode & 07777),
                                                         secrecy == Secrecy::kSecret ? "0600" : "go-w"));
  }
  if (info.st_size > static_cast<off_t>(kMostBytes)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " has more than ", kMostBytes, " bytes"));
  }
  return absl::OkStatus();
}

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

// Without a branch or a look-up that depends on it: -1 for what is no digit.
int HexDigit(char c) {
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
  return lower >= '0' && lower <= '9' ? lower - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

}  // namespace

absl::StatusOr<TlsFiles> TlsFiles::Find(const TlsOptions& options) {
  const size_t slash = options.psk_file.rfind('/');
  std::string prefix = !options.directory.empty()   ? options.directory + "/"
                       : slash == std::string::npos ? std::string()
                                                    : options.psk_file.substr(0, slash + 1);
  FERRITE_ASSIGN_OR_RETURN(Fd directory, FindFile(prefix.empty() ? "." : prefix));
  return TlsFiles(std::move(directory), std::move(prefix));
}

absl::StatusOr<TlsFileMark> TlsFiles::Mark(const std::string& name) const {
  const absl::StatusOr<Fd> found = FindFileAt(directory_, name);
  if (absl::IsNotFound(found.status())) {
    return TlsFileMark();
  }
  FERRITE_RETURN_IF_ERROR(found.status());
  struct stat info = {};
  if (fstat(found->get(), &info) != 0) {
    return ErrnoStatus(absl::StrCat("look at ", PathOf(name)));
  }
  return TlsFileMark{.device = info.st_dev,
                     .inode = info.st_ino,
                     .bytes = info.st_size,
                     .written = Nanoseconds(info.st_mtim),
                     .changed = Nanoseconds(info.st_ctim)};
}

absl::StatusOr<std::string> TlsFiles::Read(const std::string& name, Secrecy secrecy) const {
  const std::string path = PathOf(name);
  FERRITE_ASSIGN_OR_RETURN(const Fd found, FindFileAt(directory_, name));
  // What was found is what is opened: nobody can put another file there meanwhile. It does not wait, for a FIFO's
  // writer say.
  const Fd file(
      open(absl::StrCat("/proc/self/fd/", found.get()).c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat info = {};
  if (fstat(file.valid() ? file.get() : found.get(), &info) != 0) {
    return ErrnoStatus(absl::StrCat("look at ", path));
  }
  if (!file.valid() && S_ISREG(info.st_mode)) {
    return ErrnoStatus(absl::StrCat("open ", path));
  }
  FERRITE_RETURN_IF_ERROR(CheckFile(path, info, secrecy));
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t n = read(file.get(), text.data() + have, text.size() - have);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      const absl::Status status = ErrnoStatus(absl::StrCat("read ", path));
      Wipe(text);
      return status;
    }
    if (n == 0) {
      break;
    }
    have += static_cast<size_t>(n);
  }
  text.resize(have);
  if (text.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is empty"));
  }
  return text;
}

absl::StatusOr<std::vector<PreSharedKey>> ParsePreSharedKeys(absl::string_view text) {
  std::vector<PreSharedKey> keys;
  size_t number = 0;
  const auto wrong = [&](absl::string_view what) {
    Wipe(keys);
    return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", what));
  };
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') {
      continue;
    }
    const size_t colon = line.rfind(':');
    if (colon == absl::string_view::npos || colon == 0) {
      return wrong("write IDENTITY:KEY, the key in hexadecimal");
    }
    if (keys.size() == kMostKeys) {
      return wrong(absl::StrCat("more than ", kMostKeys, " keys"));
    }
    const absl::string_view hex = line.substr(colon + 1);
    if (colon > kMostIdentityBytes || hex.size() % 2 != 0 || hex.size() < 2 * kLeastKeyBytes ||
        hex.size() > 2 * kMostKeyBytes) {
      return wrong(absl::StrCat("an identity has at most ", kMostIdentityBytes, " bytes, a key ", kLeastKeyBytes,
                                " to ", kMostKeyBytes, " in hexadecimal"));
    }
    for (const char c : line.substr(0, colon)) {
      if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) {
        return wrong("an identity is of letters, digits and signs");
      }
    }
    PreSharedKey one{.identity = std::string(line.substr(0, colon)), .key = std::string(hex.size() / 2, '\0')};
    for (size_t i = 0; i < one.key.size(); ++i) {
      const int high = HexDigit(hex[2 * i]);
      const int low = HexDigit(hex[2 * i + 1]);
      if (high < 0 || low < 0) {
        Wipe(one.key);
        return wrong("the key is not in hexadecimal");
      }
      one.key[i] = static_cast<char>(high << 4 | low);
    }
    for (const PreSharedKey& other : keys) {
      if (other.identity == one.identity) {
        Wipe(one.key);
        return wrong(absl::StrCat("a second key of ", absl::CHexEscape(one.identity)));
      }
    }
    keys.push_back(std::move(one));
  }
  if (keys.empty()) {
    return absl::InvalidArgumentError("it has no key");
  }
  return keys;
}

void Wipe(std::string& secret) {
  explicit_bzero(secret.data(), secret.size());
  secret.clear();
}

void Wipe(std::vector<PreSharedKey>& keys) {
  for (PreSharedKey& one : keys) {
    Wipe(one.key);
  }
  keys.clear();
}

}  // namespace ferrite::migration
