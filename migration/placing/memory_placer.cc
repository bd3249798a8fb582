#include "migration/placing/memory_placer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "memory/memory_limits.h"
#include "migration/placing/anonymous_placer.h"
#include "migration/placing/huge_memfd_placer.h"
#include "migration/placing/hugetlb_placer.h"
#include "migration/placing/memfd_placer.h"
#include "migration/placing/own_memory.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace ferrite::migration {

std::unique_ptr<MemoryPlacer> MemoryPlacer::Create(MemoryRegion& region, PageStates& states, const Clock& clock) {
  switch (region.backing()) {
    case MemoryBacking::kAnonymous:
      return std::make_unique<AnonymousPlacer>(region, states, clock);
    case MemoryBacking::kMemfd:
      if (HugeMemfdPlacer::MayBeHuge(region)) {
        return std::make_unique<HugeMemfdPlacer>(region, states, clock);
      }
      return std::make_unique<MemfdPlacer>(region, states);
    case MemoryBacking::kHugetlb2M:
    case MemoryBacking::kHugetlb1G:
      return std::make_unique<HugetlbPlacer>(region, states);
  }
  FERRITE_CHECK(false && "unknown memory backing");
}

MemoryPlacer::MemoryPlacer(MemoryRegion& region, PageStates& states)
    : Placer(states, region.pages(), region.host_page_bytes() / kPageBytes), region_(region) {}

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

absl::Status MemoryPlacer::ClearZero(PageRun run) {
  const uint64_t end = run.first + run.count;
  for (uint64_t page = run.first; page < end; ++page) {
    // What was written and not told of does not come again, where the connection was lost and the page became zero.
    if (states().Get(page / pages_per_unit()) == PageState::kPresent ||
        writers_->MayHaveWritten(writers_region_, page)) {
      FERRITE_RETURN_IF_ERROR(Clear({.first = page, .count = 1}));
    }
  }
  SetPresent(run);
  return absl::OkStatus();
}

void MemoryPlacer::EndOutsideWriters() {
  if (writers_ != nullptr) {
    writers_->End();
  }
}

absl::Status MemoryPlacer::PunchZero(PageRun run) {
  // Memory that nothing was received into is zero already, and stays without a page behind it.
  const uint64_t end = run.first + run.count;
  for (uint64_t page = run.first; page < end;) {
    uint64_t next = page + 1;
    if (states().Get(page) == PageState::kPresent) {
      while (next < end && states().Get(next) == PageState::kPresent) {
        ++next;
      }
      FERRITE_RETURN_IF_ERROR(region_.Discard(page * kPageBytes, (next - page) * kPageBytes).status());
    } else {
      states().SetPresent(page);
    }
    page = next;
  }
  return absl::OkStatus();
}

absl::Status MemoryPlacer::Clear(PageRun run) const {
  const std::span<uint8_t> memory = Guest(run);
  return TouchMemory([&] { std::memset(memory.data(), 0, memory.size()); }).has_value()
             ? absl::ResourceExhaustedError("memory that pages came to cannot be had")
             : absl::OkStatus();
}

absl::Status MemoryPlacer::Write(PageRun run, const uint8_t* bytes) const {
  const uint64_t size = run.count * kPageBytes;
  for (uint64_t done = 0; done < size;) {
    const ssize_t n = pwrite(region_.fd(), bytes + done, size - done,
                             static_cast<off_t>(region_.file_offset() + run.first * kPageBytes + done));
    if (n < 0 && errno != EINTR) {
      return OfOwnMemory(ErrnoStatus(absl::StrCat("write ", size, " bytes of memory")));
    }
    done += n < 0 ? 0 : static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

void MemoryPlacer::Forget(Mapping mapping) {
  // Piece by piece: on some kernels a vCPU's fault waits until no range at all is being unmapped.
  constexpr uint64_t kPiece = uint64_t{64} << 20;
  for (uint64_t done = 0; done < mapping.size(); done += kPiece) {
    (void)madvise(mapping.data() + done, std::min(kPiece, mapping.size() - done), MADV_DONTNEED);
  }
}

absl::Status MemoryPlacer::Drop(PageRun run) {
  EndOutsideWriters();
  return region_.Discard(run.first * kPageBytes, run.count * kPageBytes).status();
}

absl::Status MemoryPlacer::CanArm(MemoryBacking backing, const UserfaultFeatures& features) {
  switch (backing) {
    case MemoryBacking::kAnonymous:
      return absl::OkStatus();
    case MemoryBacking::kMemfd:
      return features.missing_shmem ? absl::OkStatus()
                                    : absl::FailedPreconditionError(
                                          "userfaultfd of this kernel lacks MISSING faults for memfd memory (Linux "
                                          "4.11 has them); anonymous "
                                          "memory and pre-copy do without them");
    case MemoryBacking::kHugetlb2M:
    case MemoryBacking::kHugetlb1G:
      return features.missing_hugetlb && features.minor_hugetlb
                 ? absl::OkStatus()
                 : absl::FailedPreconditionError(
                       absl::StrCat("userfaultfd of this kernel lacks MINOR faults for ", MemoryBackingName(backing),
                                    " memory (Linux 5.13 has them); anonymous memory and pre-copy do without them"));
  }
  FERRITE_CHECK(false && "unknown memory backing");
}

absl::Status MemoryPlacer::Arm(Userfault& userfault) {
  EndOutsideWriters();
  FERRITE_RETURN_IF_ERROR(CanArm(region_.backing(), userfault.features()));
  FERRITE_ASSIGN_OR_RETURN(const bool minor, PrepareFaults(userfault.features()));
  FERRITE_RETURN_IF_ERROR(Annotate(userfault.Register(region_.guest_mapping(), minor), region_.name()));
  userfault_ = &userfault;
  return absl::OkStatus();
}

absl::StatusOr<bool> MemoryPlacer::PrepareFaults(const UserfaultFeatures&) { return !region_.alias_mapping().empty(); }

absl::Status MemoryPlacer::Disarm() {
  if (userfault_ != nullptr) {
    FERRITE_RETURN_IF_ERROR(Annotate(userfault_->Unregister(region_.guest_mapping()), region_.name()));
    userfault_ = nullptr;
  }
  region_.DropAlias();
  return absl::OkStatus();
}

absl::Status MemoryPlacer::Shown(PageRun run, uint64_t placed, const absl::Status& status) {
  // The guest may have written to what it sees: that does not come again, whatever became of the rest.
  const PageRun shown{.first = run.first, .count = placed / kPageBytes};
  const PageRun rest{.first = run.first + shown.count, .count = run.count - shown.count};
  if (shown.count > 0) {
    Finish(shown);
  }
  if (rest.count > 0) {
    Placer::Abandon(rest);
  }
  return OfOwnMemory(status);
}

absl::Status MemoryPlacer::ShowCopy(PageRun run, const uint8_t* bytes) {
  uint64_t placed = 0;
  const absl::Status status = userfault_->Copy(Guest(run), bytes, unit_bytes(), placed);
  return Shown(run, placed, status);
}

void MemoryPlacer::CutOff(PageRun run) {
  // One by one: to a page that cannot be had nothing was read.
  for (uint64_t page = run.first; page < run.first + run.count; ++page) {
    (void)Clear({.first = page, .count = 1});
  }
}

absl::Status MemoryPlacer::Lose(PageRun run) {
  // What came of it goes when all rounds are over: more of the same unit may still come, or this page after all.
  lost().Add(run.first, run.count);
  SetPresent(run);
  return absl::OkStatus();
}

absl::Status MemoryPlacer::ShowPoisoned(Userfault* userfault) {
  EndOutsideWriters();
  for (std::optional<uint64_t> page = lost().Next(0); page.has_value();) {
    const uint64_t unit = *page / pages_per_unit();
    const PageRun run{.first = unit * pages_per_unit(), .count = pages_per_unit()};
    page = lost().Next(run.first + run.count);
    FERRITE_RETURN_IF_ERROR(region_.Discard(run.first * kPageBytes, unit_bytes()).status());
    states().Lose(unit);
    if (userfault_ != nullptr || userfault == nullptr || !userfault->features().poison) {
      FERRITE_RETURN_IF_ERROR(MakePoisoned(unit, userfault_));
      continue;
    }
    // For as long as it takes to mark it.
    FERRITE_RETURN_IF_ERROR(userfault->Register(Guest(run), /*minor=*/false));
    FERRITE_RETURN_IF_ERROR(MakePoisoned(unit, userfault));
    FERRITE_RETURN_IF_ERROR(userfault->Unregister(Guest(run)));
  }
  return absl::OkStatus();
}

absl::Status MemoryPlacer::MakePoisoned(uint64_t unit, Userfault* userfault) {
  const std::span<uint8_t> memory = Guest({.first = unit * pages_per_unit(), .count = pages_per_unit()});
  const uint64_t offset = unit * unit_bytes();
  // Where the kernel makes huge pages of a memfd it forgets marks; it makes none over two files.
  const bool forgets = region_.backing() == MemoryBacking::kMemfd && HugeMemfdPlacer::MayBeHuge(region_);
  if (userfault != nullptr && userfault->features().poison && !forgets) {
    FERRITE_RETURN_IF_ERROR(userfault->Poison(memory, unit_bytes()));
    (void)region_.AddLost(offset);
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(region_.HideLost(offset));
  return userfault != nullptr ? userfault->Wake(memory) : absl::OkStatus();
}

absl::StatusOr<uint64_t> MemoryPlacer::PublishZero(PageRun run, Showing) {
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
    if (!states().Claim(unit)) {
      continue;
    }
    // It is not here before whoever touches it learns that it is lost: what could not be marked is asked for again.
    if (absl::Status status = MakePoisoned(unit, userfault_); !status.ok()) {
      states().Abandon(unit);
      return status;
    }
    states().FinishPoisoned(unit);
    news += pages_per_unit();
  }
  return news;
}

absl::StatusOr<bool> MemoryPlacer::ShowWanted(uint64_t) {
  // Whoever receives it wakes the waiting.
  return false;
}

absl::Status MemoryPlacer::ResolvePoisoned(uint64_t unit) { return MakePoisoned(unit, userfault_); }

absl::Status MemoryPlacer::ResolvePresent(uint64_t unit) {
  return OfOwnMemory(userfault_->ZeroPage(Guest({.first = unit, .count = 1}), unit_bytes()));
}

uint64_t MemoryPlacer::Compact(absl::FunctionRef<bool()>) { return 0; }

}  // namespace ferrite::migration
