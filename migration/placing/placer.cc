#include "migration/placing/placer.h"

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

// 256 MiB: some milliseconds to give back, and few enough calls to the kernel for all memory.
constexpr uint64_t kPiecePages = uint64_t{1} << 16;

// Placing fails for what this side's memory lacks, whatever errno says of it.
absl::Status OfOwnMemory(const absl::Status& status) {
  return status.ok() ? status : absl::ResourceExhaustedError(status.message());
}

}  // namespace

Placer::Placer(MemoryRegion& region, PageStates& states)
    : region_(region),
      states_(states),
      pages_per_unit_(region.host_page_bytes() / kPageBytes),
      has_alias_(!region.alias_mapping().empty()) {
  FERRITE_CHECK(states.units() == region.pages() / pages_per_unit_);
}

bool Placer::Contains(PageRun run) const {
  return run.count > 0 && run.first < region_.pages() && run.count <= region_.pages() - run.first;
}

PageRun Placer::TakePiece(PageRun& rest) const {
  // As far as to a boundary, so that no unit is in two pieces.
  const uint64_t most = std::max(kPiecePages, pages_per_unit_);
  const PageRun piece{.first = rest.first, .count = std::min(rest.count, most - rest.first % most)};
  rest = {.first = rest.first + piece.count, .count = rest.count - piece.count};
  return piece;
}

bool Placer::IsWhole(PageRun run) const {
  return Contains(run) && run.first % pages_per_unit_ == 0 && run.count % pages_per_unit_ == 0;
}

std::span<uint8_t> Placer::Guest(PageRun run) const {
  return region_.guest_mapping().subspan(run.first * kPageBytes, run.count * kPageBytes);
}

PageRun Placer::Units(PageRun run) const {
  const uint64_t first = run.first / pages_per_unit_;
  const uint64_t last = (run.first + run.count - 1) / pages_per_unit_;
  return {.first = first, .count = last - first + 1};
}

absl::Status Placer::Populate(std::span<uint8_t> memory) const {
  // An old kernel (before 5.14) lacks the advice; then each page is mapped by a fault.
  return madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE) == 0 || errno == EINVAL
             ? absl::OkStatus()
             : OfOwnMemory(ErrnoStatus("map pages"));
}

absl::Status Placer::Explain(const absl::Status& error) const {
  return absl::IsResourceExhausted(error)
             ? OutOfOwnMemory(absl::StrCat("memory ", region_.name(), " (", MemoryBackingName(region_.backing()),
                                           "): ", error.message()),
                              region_.backing())
             : error;
}

absl::StatusOr<std::span<uint8_t>> Placer::Landing(PageRun run) {
  const PageRun units = Units(run);
  uint64_t unit = units.first;
  while (unit < units.first + units.count && states_.Get(unit) == PageState::kPresent) {
    ++unit;
  }
  if (unit < units.first + units.count) {
    FERRITE_RETURN_IF_ERROR(
        Populate(Guest({.first = units.first * pages_per_unit_, .count = units.count * pages_per_unit_})));
  }
  return Guest(run);
}

void Placer::Landed(PageRun run) {
  const PageRun units = Units(run);
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    states_.SetPresent(unit);
  }
}

absl::Status Placer::LandZero(PageRun run) {
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
    const uint64_t unit_first = unit * pages_per_unit_;
    const bool whole = run.first <= unit_first && unit_first + pages_per_unit_ <= end;
    const bool present = states_.Get(unit) == PageState::kPresent;
    if (present && whole) {
      ++hole_units;
    } else {
      FERRITE_RETURN_IF_ERROR(punch(unit));
    }
    if (present && !whole) {
      // Zero pages that count as present may have no page behind them, and not get one: that is no SIGBUS.
      const uint64_t first = std::max(run.first, unit_first);
      const std::span<uint8_t> part =
          Guest({.first = first, .count = std::min(end, unit_first + pages_per_unit_) - first});
      FERRITE_RETURN_IF_ERROR(Populate(part));
      std::memset(part.data(), 0, part.size());
    }
    states_.SetPresent(unit);
  }
  return punch(units.first + units.count);
}

absl::Status Placer::Discard(PageRun run) {
  // The hole first: a page that counts as absent is never there.
  FERRITE_RETURN_IF_ERROR(region_.Discard(run.first * kPageBytes, run.count * kPageBytes).status());
  const PageRun units = Units(run);
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    states_.Discard(unit);
  }
  return absl::OkStatus();
}

absl::Status Placer::CanArm(MemoryBacking backing, const UserfaultFeatures& features) {
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

absl::Status Placer::Arm(Userfault& userfault) {
  FERRITE_RETURN_IF_ERROR(CanArm(region_.backing(), userfault.features()));
  FERRITE_RETURN_IF_ERROR(Annotate(userfault.Register(region_.guest_mapping(), /*minor=*/has_alias_), region_.name()));
  userfault_ = &userfault;
  return absl::OkStatus();
}

absl::Status Placer::Disarm() {
  Userfault* const userfault = std::exchange(userfault_, nullptr);
  if (userfault != nullptr) {
    FERRITE_RETURN_IF_ERROR(Annotate(userfault->Unregister(region_.guest_mapping()), region_.name()));
  }
  region_.DropAlias();
  return absl::OkStatus();
}

PageRun Placer::Claim(PageRun run) {
  const PageRun units = Units(run);
  uint64_t claimed = 0;
  while (claimed < units.count && states_.Claim(units.first + claimed)) {
    ++claimed;
  }
  return {.first = run.first, .count = claimed * pages_per_unit_};
}

std::span<uint8_t> Placer::Window(PageRun run) const {
  return has_alias_ ? region_.alias_mapping().subspan(run.first * kPageBytes, run.count * kPageBytes)
                    : std::span<uint8_t>();
}

absl::StatusOr<std::span<uint8_t>> Placer::WideWindow(PageRun run) const {
  const std::span<uint8_t> window = Window(run);
  if (!window.empty()) {
    FERRITE_RETURN_IF_ERROR(Populate(window));
  }
  return window;
}

absl::Status Placer::Show(PageRun run, const uint8_t* buffer) {
  FERRITE_RETURN_IF_ERROR(OfOwnMemory(has_alias_ ? userfault_->Continue(Guest(run), unit_bytes())
                                                 : userfault_->Copy(Guest(run), buffer, unit_bytes())));
  const PageRun units = Units(run);
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    states_.Finish(unit);
  }
  return absl::OkStatus();
}

void Placer::Abandon(PageRun run) {
  const PageRun units = Units(run);
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    states_.Abandon(unit);
  }
}

absl::StatusOr<uint64_t> Placer::ShowZero(PageRun run) {
  const PageRun units = Units(run);
  uint64_t news = 0;
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    if (states_.Claim(unit)) {
      // An absent page is a hole, and a hole is zero: there is nothing to place before somebody touches it.
      states_.Finish(unit);
      news += pages_per_unit_;
    }
  }
  // Who faulted before Finish() waits; it faults again and finds the page present.
  FERRITE_RETURN_IF_ERROR(userfault_->Wake(Guest(run)));
  return news;
}

absl::StatusOr<uint64_t> Placer::ShowPoison(PageRun run) {
  const PageRun units = Units(run);
  uint64_t news = 0;
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    if (states_.Poison(unit)) {
      FERRITE_RETURN_IF_ERROR(ResolvePoisoned(unit));
      news += pages_per_unit_;
    }
  }
  return news;
}

absl::Status Placer::ResolvePoisoned(uint64_t unit) {
  return userfault_->Poison(Guest({.first = unit * pages_per_unit_, .count = pages_per_unit_}), unit_bytes());
}

absl::Status Placer::ResolvePresent(uint64_t unit) {
  const PageRun run{.first = unit * pages_per_unit_, .count = pages_per_unit_};
  if (!has_alias_) {
    return OfOwnMemory(userfault_->ZeroPage(Guest(run), unit_bytes()));
  }
  // A hole gets its zero page through the alias; where there is no memory for it, that is an error here, and no SIGBUS.
  FERRITE_RETURN_IF_ERROR(Populate(Window(run)));
  // For the kernels that know no such advice; a page that is there is not changed by adding nothing to it.
  auto* first = reinterpret_cast<uint64_t*>(Window(run).data());
  __atomic_fetch_add(first, 0, __ATOMIC_RELAXED);
  return OfOwnMemory(userfault_->Continue(Guest(run), unit_bytes()));
}

}  // namespace ferrite::migration
