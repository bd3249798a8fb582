#include "migration/placing/hugetlb_placer.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "migration/placing/own_memory.h"

namespace ferrite::migration {

std::span<uint8_t> HugetlbPlacer::Window(PageRun run) const {
  return region().alias_mapping().subspan(run.first * kPageBytes, run.count * kPageBytes);
}

absl::StatusOr<std::span<uint8_t>> HugetlbPlacer::FillTarget(PageRun run) {
  const PageRun units = Units(run);
  uint64_t unit = units.first;
  while (unit < units.first + units.count && states().Get(unit) == PageState::kPresent) {
    ++unit;
  }
  if (unit < units.first + units.count) {
    FERRITE_RETURN_IF_ERROR(
        Populate(Guest({.first = units.first * pages_per_unit(), .count = units.count * pages_per_unit()})));
  }
  return Guest(run);
}

absl::Status HugetlbPlacer::PutZero(PageRun run) {
  if (MayBeWritten()) {
    return ClearZero(run);
  }
  const PageRun units = Units(run);
  const uint64_t end = run.first + run.count;
  // Memory that nothing was received into is zero already, and stays without a page behind it.
  uint64_t hole_units = 0;  // that are to become one: those before the unit that is looked at
  const auto punch = [&](uint64_t hole_end) -> absl::Status {
    if (hole_units == 0) {
      return absl::OkStatus();
    }
    const uint64_t units_in_hole = std::exchange(hole_units, 0);
    return region().Discard((hole_end - units_in_hole) * unit_bytes(), units_in_hole * unit_bytes()).status();
  };
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    const uint64_t unit_first = unit * pages_per_unit();
    const bool whole = run.first <= unit_first && unit_first + pages_per_unit() <= end;
    const bool present = states().Get(unit) == PageState::kPresent;
    if (present && whole) {
      ++hole_units;
    } else {
      FERRITE_RETURN_IF_ERROR(punch(unit));
    }
    if (present && !whole) {
      // Zero pages that count as present may have no page behind them, and not get one: that is no SIGBUS.
      const uint64_t first = std::max(run.first, unit_first);
      const PageRun part{.first = first, .count = std::min(end, unit_first + pages_per_unit()) - first};
      FERRITE_RETURN_IF_ERROR(Populate(Guest(part)));
      FERRITE_RETURN_IF_ERROR(Clear(part));
    }
    states().SetPresent(unit);
  }
  return punch(units.first + units.count);
}

absl::StatusOr<std::span<uint8_t>> HugetlbPlacer::StageTarget(PageRun run, Showing) {
  const std::span<uint8_t> window = Window(run);
  if (run.count > pages_per_unit()) {
    // The read does not fault on each of them.
    FERRITE_RETURN_IF_ERROR(Populate(window));
  }
  return window;
}

absl::Status HugetlbPlacer::Publish(PageRun run, const uint8_t*) {
  uint64_t placed = 0;
  const absl::Status status = userfault().Continue(Guest(run), unit_bytes(), placed);
  return Shown(run, placed, status);
}

absl::Status HugetlbPlacer::ResolvePresent(uint64_t unit) {
  const PageRun run{.first = unit * pages_per_unit(), .count = pages_per_unit()};
  // A hole gets its zero page through the alias; where there is no memory for it, that is an error here, and no SIGBUS.
  FERRITE_RETURN_IF_ERROR(Populate(Window(run)));
  // For the kernels that know no such advice; a page that is there is not changed by adding nothing to it.
  auto* first = reinterpret_cast<uint64_t*>(Window(run).data());
  __atomic_fetch_add(first, 0, __ATOMIC_RELAXED);
  uint64_t placed = 0;
  return OfOwnMemory(userfault().Continue(Guest(run), unit_bytes(), placed));
}

}  // namespace ferrite::migration
