#include "tests/fakes/full_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include "base/status.h"

namespace ferrite {
namespace {

constexpr uint64_t kLimit = uint64_t{1} << 30;

}  // namespace

FullFile::FullFile(const std::string& path, uint64_t room) : start_(kLimit - room) {
  auto fd = OpenFile(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  FERRITE_CHECK(fd.ok());
  fd_ = *std::move(fd);
  FERRITE_CHECK(ftruncate(fd_.get(), static_cast<off_t>(start_)) == 0);
  FERRITE_CHECK(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
  FERRITE_CHECK(getrlimit(RLIMIT_FSIZE, &before_) == 0);
  const rlimit limit = {.rlim_cur = kLimit, .rlim_max = before_.rlim_max};
  FERRITE_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

void FullFile::MakeRoom() { FERRITE_CHECK(setrlimit(RLIMIT_FSIZE, &before_) == 0); }

std::string FullFile::Appended() const {
  const off_t end = lseek(fd_.get(), 0, SEEK_END);
  FERRITE_CHECK(end >= static_cast<off_t>(start_));
  std::string text(static_cast<uint64_t>(end) - start_, '?');
  FERRITE_CHECK(pread(fd_.get(), text.data(), text.size(), static_cast<off_t>(start_)) ==
                static_cast<ssize_t>(text.size()));
  return text;
}

}  // namespace ferrite
