#include "tests/fakes/scarcity.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>

namespace ferrite {
namespace {

// Of threads and of memory.
struct Supply {
  std::atomic<int64_t> left{-1};  // before the first is refused; negative: plenty
  std::atomic<bool> all{false};
  std::atomic<uint64_t> refused{0};

  bool Refuses() {
    if (has_plenty) {
      return false;
    }
    int64_t before = left.load();
    // None stays none for all that follow. End() may come at any time, and is not undone.
    while (before > 0 || (before == 0 && !all)) {
      if (left.compare_exchange_weak(before, before - 1)) {
        break;
      }
    }
    if (before != 0) {
      return false;
    }
    ++refused;
    return true;
  }
};

Supply threads;
Supply memory;

}  // namespace

Scarcity::Scarcity(Scarce what, uint64_t nth, Refusals refusals) : what_(what) {
  FERRITE_CHECK(nth >= 1);
  if (what_ != Scarce::kDescriptors) {
    Supply& supply = what_ == Scarce::kThreads ? threads : memory;
    supply.all = refusals == Refusals::kAllFromThere;
    supply.refused = 0;
    supply.left = static_cast<int64_t>(nth - 1);
    return;
  }
  FERRITE_CHECK(getrlimit(RLIMIT_NOFILE, &before_) == 0);
  rlim_t limit = 0;
  for (uint64_t free = 0;; ++limit) {
    if (fcntl(static_cast<int>(limit), F_GETFD) < 0 && ++free == nth) {
      break;
    }
  }
  const rlimit lowered{.rlim_cur = limit, .rlim_max = before_.rlim_max};
  FERRITE_CHECK(setrlimit(RLIMIT_NOFILE, &lowered) == 0);
}

void Scarcity::End() {
  if (what_ == Scarce::kDescriptors) {
    FERRITE_CHECK(setrlimit(RLIMIT_NOFILE, &before_) == 0);
  } else {
    (what_ == Scarce::kThreads ? threads : memory).left = -1;
  }
}

uint64_t Scarcity::refused() const { return (what_ == Scarce::kThreads ? threads : memory).refused; }

}  // namespace ferrite

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*body)(void*),
                              void* argument) noexcept {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto kReal = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return ferrite::threads.Refuses() ? EAGAIN : kReal(thread, attributes, body, argument);
}

// What Boost.Asio takes its memory by.
extern "C" void* aligned_alloc(size_t alignment, size_t bytes) noexcept {
  void* memory = nullptr;
  return posix_memalign(&memory, alignment, bytes) == 0 ? memory : nullptr;
}

extern "C" int posix_memalign(void** memory, size_t alignment, size_t bytes) noexcept {
  using Allocate = int (*)(void**, size_t, size_t);
  static const auto kReal = reinterpret_cast<Allocate>(dlsym(RTLD_NEXT, "posix_memalign"));
  return ferrite::memory.Refuses() ? ENOMEM : kReal(memory, alignment, bytes);
}

void* operator new(size_t bytes) {
  while (true) {
    if (void* const memory = ferrite::memory.Refuses() ? nullptr : std::malloc(bytes == 0 ? 1 : bytes);
        memory != nullptr) {
      return memory;
    }
    const std::new_handler handler = std::get_new_handler();
    if (handler == nullptr) {
      throw std::bad_alloc();
    }
    handler();
  }
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
