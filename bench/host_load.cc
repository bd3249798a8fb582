#include "bench/host_load.h"

#include <sys/mman.h>

#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/memory_settings.h"
#include "base/status.h"
#include "memory/guest_address.h"

namespace ferrite {
namespace {

constexpr uint64_t kLeft = uint64_t{2} << 30;
// Of the buddy allocator, for 2 MiB.
constexpr int kHugeOrder = 9;
// Those that come free meanwhile are not worth it.
constexpr uint64_t kHugeLeft = 32;
constexpr uint64_t kBlockBytes = kBlockPages * kPageBytes;

absl::StatusOr<Mapping> Touched(uint64_t bytes, int advice) {
  FERRITE_ASSIGN_OR_RETURN(Mapping memory,
                           Mapping::Create("memory of a busy host", bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                           /*fd=*/-1, /*offset=*/0, kBlockBytes));
  for (const int one : {advice, MADV_DONTFORK, MADV_POPULATE_WRITE}) {
    if (madvise(memory.data(), bytes, one) != 0) {
      return ErrnoStatus(absl::StrCat("fill ", bytes, " bytes of the host's memory"));
    }
  }
  return memory;
}

uint64_t FreeHugePages() {
  std::ifstream file("/proc/buddyinfo");
  uint64_t pages = 0;
  std::string line;
  while (std::getline(file, line)) {
    // "Node 0, zone   Normal", and the free blocks of each order.
    std::istringstream words(line);
    std::string word;
    for (int i = 0; i < 4; ++i) {
      words >> word;
    }
    uint64_t blocks = 0;
    for (int order = 0; words >> blocks; ++order) {
      pages += order < kHugeOrder ? 0 : blocks << (order - kHugeOrder);
    }
  }
  return pages;
}

}  // namespace

BusyThreads::BusyThreads(uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    threads_.emplace_back([this] {
      while (!stop_.load(std::memory_order_relaxed)) {
        __builtin_ia32_pause();
      }
    });
  }
}

BusyThreads::~BusyThreads() {
  stop_.store(true, std::memory_order_relaxed);
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

absl::StatusOr<FragmentedMemory> FragmentedMemory::Create() {
  const std::optional<uint64_t> told = MemInfoBytes("MemAvailable");
  if (!told.has_value()) {
    return absl::NotFoundError("no MemAvailable in /proc/meminfo");
  }
  const uint64_t available = *told;
  if (available < 2 * kLeft) {
    return absl::ResourceExhaustedError(
        absl::StrCat("too little memory is free to break it up: ", available, " bytes"));
  }
  FERRITE_ASSIGN_OR_RETURN(Mapping pieces, Touched((available - kLeft) / kBlockBytes * kBlockBytes, MADV_NOHUGEPAGE));
  for (uint64_t offset = 0; offset < pieces.size(); offset += 2 * kPageBytes) {
    if (madvise(pieces.data() + offset, kPageBytes, MADV_DONTNEED) != 0) {
      return ErrnoStatus("give a page back");
    }
  }
  const uint64_t huge = FreeHugePages();
  FERRITE_ASSIGN_OR_RETURN(Mapping held,
                           Touched((huge > kHugeLeft ? huge - kHugeLeft : 1) * kBlockBytes, MADV_HUGEPAGE));
  return FragmentedMemory(std::move(pieces), std::move(held));
}

}  // namespace ferrite
