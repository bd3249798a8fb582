// What else a host may be at while a guest moves: threads that are always busy, and free memory in pieces.
#ifndef FERRITE_BENCH_HOST_LOAD_H_
#define FERRITE_BENCH_HOST_LOAD_H_

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mapping.h"

namespace ferrite {

// Threads of the default class that never sleep, until it is destroyed.
class BusyThreads {
 public:
  explicit BusyThreads(uint32_t count);
  ~BusyThreads();
  BusyThreads(const BusyThreads&) = delete;
  BusyThreads& operator=(const BusyThreads&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

// Holds most of the host's memory, so that what is left is in pieces of one page: memory is filled, every second page
// is given back, and the huge pages that are left are taken. Half of what was free is free. Children do not inherit it.
class FragmentedMemory {
 public:
  // Leaves what the host needs to go on. RESOURCE_EXHAUSTED when little is free.
  static absl::StatusOr<FragmentedMemory> Create();

 private:
  FragmentedMemory(Mapping pieces, Mapping huge) : pieces_(std::move(pieces)), huge_(std::move(huge)) {}

  Mapping pieces_;
  Mapping huge_;
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_HOST_LOAD_H_
