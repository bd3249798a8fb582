// What a fault thread has asked for, and has not got.
#ifndef FERRITE_MIGRATION_PLACING_ASKED_PAGES_H_
#define FERRITE_MIGRATION_PLACING_ASKED_PAGES_H_

#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "memory/page_range.h"

namespace ferrite::migration {

// A page that is asked for may be on its way over a page channel whose path has stalled. When nothing of it has come
// for a while it is asked for once more, which has the source send it over the urgent channel as well
// (PendingPages::ClaimAgain()). What comes second is dropped. Of a page whose frame is half here that would be of no
// use: it is what the other channel's receiver alone may fill (R1). Threads: one.
class AskedPages {
 public:
  // A channel that is merely slow, on a host that has much to do, has brought it by then.
  static constexpr absl::Duration kPatience = absl::Milliseconds(250);

  // `is_missing`: whether a unit was asked for, and nothing of it has come.
  explicit AskedPages(std::function<bool(const PageRange& unit)> is_missing) : is_missing_(std::move(is_missing)) {}

  // They are asked for at `now`, no earlier than those before.
  void Add(std::span<const PageRange> units, MonotonicTime now) {
    for (const PageRange& unit : units) {
      asked_.push_back({.unit = unit, .overdue = now + kPatience});
    }
  }
  // When there may be some that are overdue; none while nothing is missing.
  std::optional<MonotonicTime> NextAt() {
    while (!asked_.empty() && !is_missing_(asked_.front().unit)) {
      asked_.pop_front();
    }
    return asked_.empty() ? std::nullopt : std::optional(asked_.front().overdue);
  }
  // What is to be asked for again, each once.
  std::vector<PageRange> TakeOverdue(MonotonicTime now) {
    std::vector<PageRange> units;
    for (; !asked_.empty() && asked_.front().overdue <= now; asked_.pop_front()) {
      if (is_missing_(asked_.front().unit)) {
        units.push_back(asked_.front().unit);
      }
    }
    return units;
  }

 private:
  struct Asked {
    PageRange unit;
    MonotonicTime overdue;
  };

  const std::function<bool(const PageRange&)> is_missing_;
  std::deque<Asked> asked_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_ASKED_PAGES_H_
