// A move as a simulation: a guest that writes, a link, and between them the real PendingPages and DecideNext().
#ifndef FERRITE_TESTS_FAKES_ROUND_SIMULATOR_H_
#define FERRITE_TESTS_FAKES_ROUND_SIMULATOR_H_

#include <cstdint>
#include <functional>
#include <ostream>
#include <utility>

#include "memory/page_bitmap.h"
#include "memory/page_range.h"
#include "migration/sending/convergence.h"

namespace ferrite::migration {

// What writes pages. All of its memory holds data, but for the first `zero_pages`.
//
// Memory, link and writes are an eighth of what is said of them: that takes as long and leads to the same, for less
// work.
class SimulatedGuest {
 public:
  static constexpr uint64_t kScale = 8;
  static constexpr uint64_t kMiBPages = 256 / kScale;

  // What it sees of time and of the move.
  struct Moment {
    double now = 0;      // s since the move began
    double seconds = 0;  // that it works from then on
    double share = 1;    // of its time, that it is not held back
    PageRange sent;      // what goes meanwhile
  };
  using Write = std::function<void(SimulatedGuest&, const Moment&)>;

  // `first_write`: s that the first write to a page takes after it was found dirty, beside the write itself.
  SimulatedGuest(uint64_t pages, uint64_t zero_pages, double first_write, Write write)
      : dirty_(pages), zero_pages_(zero_pages), first_write_(first_write), write_(std::move(write)) {}

  uint64_t pages() const { return dirty_.pages(); }
  uint64_t zero_pages() const { return zero_pages_; }
  PageBitmap& dirty() { return dirty_; }
  void Work(const Moment& moment) { write_(*this, moment); }

  // For `Write`. `rate`: page writes a second; [first, first + count) is where.
  void Random(uint64_t first, uint64_t count, double rate, double seconds);
  void InOrder(uint64_t first, uint64_t count, double rate, double seconds);
  void Touch(uint64_t first, uint64_t count) { dirty_.SetRange(first, count); }

 private:
  // To `next`'s pages, of which there are `pages`.
  template <typename NextPage>
  void Writes(double rate, double seconds, uint64_t pages, NextPage next);

  PageBitmap dirty_;
  const uint64_t zero_pages_;
  const double first_write_;
  const Write write_;
  double time_ = 0;  // for writing; less than none: what the last write took too long
  uint64_t place_ = 0;
  uint64_t random_ = 88172645463325252;
};

struct SimulatedLink {
  double bytes_per_second = 0;
  double latency = 0.2e-3;  // s, of a round
};

struct SimulatedMove {
  enum class End { kPrecopy, kPostcopy, kNone };
  End end = End::kNone;
  uint32_t rounds = 0;
  double sent = 0;           // over the wire, in all, as a part of what holds data
  double downtime_ms = 0;    // of pre-copy
  double longest_again = 0;  // the most that a round sent again, as a part of memory
  int throttle = 0;          // at the end
};

std::ostream& operator<<(std::ostream& out, const SimulatedMove& move);

// `limits.memory_bytes` is the guest's.
SimulatedMove PlayMove(SimulatedGuest& guest, const SimulatedLink& link, ConvergenceLimits limits);

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_ROUND_SIMULATOR_H_
