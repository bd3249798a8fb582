// What a random test of landing knows of each page: what the source has, and what the guest has written since.
#ifndef FERRITE_MIGRATION_PLACING_LANDING_MODEL_H_
#define FERRITE_MIGRATION_PLACING_LANDING_MODEL_H_

#include <gtest/gtest.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/guest_address.h"
#include "migration/placing/placer.h"

namespace ferrite::migration {

// Threads: what changes the source, one, before the guest runs; the rest, any.
class LandingModel {
 public:
  explicit LandingModel(uint64_t pages) : zero_(pages), lost_(pages), version_(pages), owner_(pages), marks_(pages) {}

  // ---- The source ----

  bool is_zero(uint64_t page) const { return zero_[page]; }
  bool is_lost(uint64_t page) const { return lost_[page]; }
  void SetZero(uint64_t page, bool zero) { zero_[page] = zero; }
  void SetLost(uint64_t page) { lost_[page] = true; }
  // The guest has written the page there.
  void Change(uint64_t page, bool zero) {
    ++version_[page];
    zero_[page] = zero;
  }

  // As the page is sent: a word that says which it is, and how often it was written, in its first and last bytes.
  void Write(std::span<uint8_t> into, PageRun run) const {
    for (uint64_t i = 0; i < run.count; ++i) {
      auto* words = reinterpret_cast<uint64_t*>(into.data() + i * kPageBytes);
      std::fill_n(words, kLastWord, 0);
      words[0] = words[kLastWord] = WordOf(run.first + i);
    }
  }

  // Pages that are all zero, or all not, and all lost, or all not, from `first` on.
  PageRun RunFrom(uint64_t first, uint64_t most) const {
    uint64_t count = 1;
    while (count < most && first + count < zero_.size() && zero_[first + count] == zero_[first] &&
           lost_[first + count] == lost_[first]) {
      ++count;
    }
    return {.first = first, .count = count};
  }

  // ---- The guest ----

  // A page is as it came until it is written, and then as it was written (R1). Nothing happens where another thread of
  // the guest is at it.
  void Touch(std::span<uint8_t> memory, uint64_t page, uint64_t mark) {
    if (owner_[page].exchange(1) != 0) {
      return;
    }
    if (lost_[page]) {
      ExpectPoisoned(memory, page);
    } else {
      auto* words = reinterpret_cast<volatile uint64_t*>(memory.data() + page * kPageBytes);
      const uint64_t expected = marks_[page] != 0 ? marks_[page] : WordOf(page);
      if (words[0] != expected || words[kLastWord] != expected || words[100] != 0) {
        ADD_FAILURE() << "R1: page " << page << " is not as it was";
      }
      marks_[page] = mark | 1;
      words[0] = marks_[page];
      words[kLastWord] = marks_[page];
    }
    owner_[page] = 0;
  }

 private:
  static constexpr uint64_t kLastWord = kPageBytes / sizeof(uint64_t) - 1;

  uint64_t WordOf(uint64_t page) const {
    return zero_[page] ? 0 : (page + 1) * 0x9e3779b97f4a7c15 + version_[page] * 0x100000001b3;
  }

  // R9: a vCPU gets a SIGBUS; a system call that reads it for us, EFAULT.
  static void ExpectPoisoned(std::span<uint8_t> memory, uint64_t page) {
    uint64_t word = 0;
    iovec into{.iov_base = &word, .iov_len = sizeof(word)};
    iovec from{.iov_base = memory.data() + page * kPageBytes, .iov_len = sizeof(word)};
    const ssize_t n = process_vm_readv(getpid(), &into, 1, &from, 1, 0);
    if (n >= 0 || errno != EFAULT) {
      ADD_FAILURE() << "R9: page " << page << " is lost, but has " << word << " in " << n << " bytes";
    }
  }

  std::vector<bool> zero_;
  std::vector<bool> lost_;               // behind the switchover
  std::vector<uint64_t> version_;        // how often it was written there
  std::vector<std::atomic<int>> owner_;  // who is at a page
  std::vector<uint64_t> marks_;          // what the guest wrote
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_LANDING_MODEL_H_
