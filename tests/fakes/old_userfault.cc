#include "tests/fakes/old_userfault.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>

namespace ferrite {
namespace {

constexpr uint64_t kMoveFeature = uint64_t{1} << 16;
constexpr unsigned int kMoveNumber = 0x05;

std::atomic<int> g_without_move{0};
std::atomic<int> g_moves_refused{0};

int Refuse() {
  errno = EINVAL;
  return -1;
}

}  // namespace

WithoutUserfaultMove::WithoutUserfaultMove() { g_without_move.fetch_add(1); }

WithoutUserfaultMove::~WithoutUserfaultMove() { g_without_move.fetch_sub(1); }

int WithoutUserfaultMove::moves_refused() { return g_moves_refused.load(); }

}  // namespace ferrite

// In place of the C library's.
extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (ferrite::g_without_move.load() == 0 || _IOC_TYPE(request) != UFFDIO) {
    return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
  }
  if (_IOC_NR(request) == ferrite::kMoveNumber) {
    ferrite::g_moves_refused.fetch_add(1);
    return ferrite::Refuse();
  }
  if (request != UFFDIO_API) {
    return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
  }
  auto* const api = static_cast<uffdio_api*>(argument);
  if ((api->features & ferrite::kMoveFeature) != 0) {
    *api = {};
    return ferrite::Refuse();
  }
  const auto result = static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
  api->features &= ~ferrite::kMoveFeature;
  return result;
}
