#include "migration/placing/memory_placer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/memory_limits.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace ferrite::migration {
namespace {

// Placing fails for what this side's memory lacks, whatever errno says of it.
absl::Status OfOwnMemory(const absl::Status& status) {
  return status.ok() ? status : absl::ResourceExhaustedError(status.message());
}

}  // namespace

MemoryPlacer::MemoryPlacer(MemoryRegion& region, PageStates& states)
    : Placer(states, region.pages(), region.host_page_bytes() / kPageBytes),
      region_(region),
      has_alias_(!region.alias_mapping().empty()) {}

std::span<uint8_t> MemoryPlacer::Guest(PageRun run) const {
  return region_.guest_mapping().subspan(run.first * kPageBytes, run.count * kPageBytes);
}

absl::Status MemoryPlacer::Populate(std::span<uint8_t> memory) const {
  // An old kernel (before 5.14) lacks the advice; then each page is mapped by a fault.
  return madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE) == 0 || errno == EINVAL
             ? absl::OkStatus()
             : OfOwnMemory(ErrnoStatus("map pages"));
}

absl::Status MemoryPlacer::Explain(const absl::Status& error) const {
  return absl::IsResourceExhausted(error)
             ? OutOfOwnMemory(absl::StrCat("memory ", region_.name(), " (", MemoryBackingName(region_.backing()),
                                           "): ", error.message()),
                              region_.backing())
             : error;
}

absl::StatusOr<std::span<uint8_t>> MemoryPlacer::FillTarget(PageRun run) {
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

absl::Status MemoryPlacer::FillZero(PageRun run) {
  const PageRun units = Units(run);
  const uint64_t end = run.first + run.count;
  // Memory that nothing was received into is zero already, and stays without a page behind it.
  uint64_t hole_units = 0;  // that are to become one: those before the unit that is looked at
  const auto punch = [&](uint64_t hole_end) -> absl::Status {
    if (hole_units == 0) {
      return absl::OkStatus();
    }
    const uint64_t units_in_hole = std::exchange(hole_units, 0);
    return region_.Discard((hole_end - units_in_hole) * unit_bytes(), units_in_hole * unit_bytes()).status();
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
      const std::span<uint8_t> part =
          Guest({.first = first, .count = std::min(end, unit_first + pages_per_unit()) - first});
      FERRITE_RETURN_IF_ERROR(Populate(part));
      std::memset(part.data(), 0, part.size());
    }
    states().SetPresent(unit);
  }
  return punch(units.first + units.count);
}

absl::Status MemoryPlacer::Drop(PageRun run) {
  return region_.Discard(run.first * kPageBytes, run.count * kPageBytes).status();
}

absl::Status MemoryPlacer::CanArm(MemoryBacking backing, const UserfaultFeatures& features) {
  bool able = true;
  switch (backing) {
    case MemoryBacking::kAnonymous:
      break;
    case MemoryBacking::kMemfd:
      able = features.missing_shmem && features.minor_shmem;
      break;
    case MemoryBacking::kHugetlb2M:
    case MemoryBacking::kHugetlb1G:
      able = features.missing_hugetlb && features.minor_hugetlb;
      break;
  }
  return able ? absl::OkStatus()
              : absl::FailedPreconditionError(
                    absl::StrCat("userfaultfd of this kernel lacks MINOR faults for ", MemoryBackingName(backing),
                                 " memory (Linux 5.14 has them); anonymous memory and pre-copy do without them"));
}

absl::Status MemoryPlacer::Arm(Userfault& userfault) {
  FERRITE_RETURN_IF_ERROR(CanArm(region_.backing(), userfault.features()));
  FERRITE_RETURN_IF_ERROR(Annotate(userfault.Register(region_.guest_mapping(), /*minor=*/has_alias_), region_.name()));
  userfault_ = &userfault;
  return absl::OkStatus();
}

absl::Status MemoryPlacer::Disarm() {
  if (userfault_ != nullptr) {
    FERRITE_RETURN_IF_ERROR(Annotate(userfault_->Unregister(region_.guest_mapping()), region_.name()));
    userfault_ = nullptr;
  }
  region_.DropAlias();
  return absl::OkStatus();
}

std::span<uint8_t> MemoryPlacer::Window(PageRun run) const {
  return has_alias_ ? region_.alias_mapping().subspan(run.first * kPageBytes, run.count * kPageBytes)
                    : std::span<uint8_t>();
}

absl::StatusOr<std::span<uint8_t>> MemoryPlacer::StageTarget(PageRun run) const {
  const std::span<uint8_t> window = Window(run);
  if (!window.empty() && run.count > pages_per_unit()) {
    // The read does not fault on each of them.
    FERRITE_RETURN_IF_ERROR(Populate(window));
  }
  return window;
}

absl::Status MemoryPlacer::Publish(PageRun run, const uint8_t* buffer) {
  uint64_t placed = 0;
  const absl::Status status = OfOwnMemory(has_alias_ ? userfault_->Continue(Guest(run), unit_bytes(), placed)
                                                     : userfault_->Copy(Guest(run), buffer, unit_bytes(), placed));
  // The guest may have written to what it sees: that does not come again, whatever became of the rest.
  const PageRun shown{.first = run.first, .count = placed / kPageBytes};
  const PageRun rest{.first = run.first + shown.count, .count = run.count - shown.count};
  if (shown.count > 0) {
    Finish(shown);
  }
  if (rest.count > 0) {
    Abandon(rest);
  }
  return status;
}

absl::StatusOr<uint64_t> MemoryPlacer::PublishZero(PageRun run) {
  const PageRun units = Units(run);
  uint64_t news = 0;
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    if (states().Claim(unit)) {
      // An absent page is a hole, and a hole is zero: there is nothing to place before somebody touches it.
      states().Finish(unit);
      news += pages_per_unit();
    }
  }
  // Who faulted before Finish() waits; it faults again and finds the page present. Of what was here already nobody
  // does.
  if (news > 0) {
    FERRITE_RETURN_IF_ERROR(userfault_->Wake(Guest(run)));
  }
  return news;
}

absl::StatusOr<uint64_t> MemoryPlacer::PublishPoison(PageRun run) {
  const PageRun units = Units(run);
  uint64_t news = 0;
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    if (states().Poison(unit)) {
      FERRITE_RETURN_IF_ERROR(ResolvePoisoned(unit));
      news += pages_per_unit();
    }
  }
  return news;
}

absl::Status MemoryPlacer::ResolvePoisoned(uint64_t unit) {
  return userfault_->Poison(Guest({.first = unit * pages_per_unit(), .count = pages_per_unit()}), unit_bytes());
}

absl::Status MemoryPlacer::ResolvePresent(uint64_t unit) {
  const PageRun run{.first = unit * pages_per_unit(), .count = pages_per_unit()};
  if (!has_alias_) {
    return OfOwnMemory(userfault_->ZeroPage(Guest(run), unit_bytes()));
  }
  // A hole gets its zero page through the alias; where there is no memory for it, that is an error here, and no SIGBUS.
  FERRITE_RETURN_IF_ERROR(Populate(Window(run)));
  // For the kernels that know no such advice; a page that is there is not changed by adding nothing to it.
  auto* first = reinterpret_cast<uint64_t*>(Window(run).data());
  __atomic_fetch_add(first, 0, __ATOMIC_RELAXED);
  uint64_t placed = 0;
  return OfOwnMemory(userfault_->Continue(Guest(run), unit_bytes(), placed));
}

}  // namespace ferrite::migration
