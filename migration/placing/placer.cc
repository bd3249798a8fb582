#include "migration/placing/placer.h"

#include <algorithm>

#include "base/status.h"

namespace ferrite::migration {
namespace {

// 256 MiB: some milliseconds to give back, and few enough calls to the kernel for all memory.
constexpr uint64_t kPiecePages = uint64_t{1} << 16;

absl::Status NoMemoryWritten() {
  return absl::InvalidArgumentError("page frame: what is no memory cannot be written from outside");
}

absl::Status NoMemory() { return absl::InvalidArgumentError("page frame: what is no memory has no lost pages"); }

}  // namespace

Placer::Placer(PageStates& states, uint64_t pages, uint64_t pages_per_unit)
    : states_(states), pages_(pages), pages_per_unit_(pages_per_unit), lost_(pages) {
  FERRITE_CHECK(states.units() == pages / pages_per_unit);
}

bool Placer::Contains(PageRun run) const {
  return run.count > 0 && run.first < pages_ && run.count <= pages_ - run.first;
}

bool Placer::IsWhole(PageRun run) const {
  return Contains(run) && run.first % pages_per_unit_ == 0 && run.count % pages_per_unit_ == 0;
}

PageRun Placer::TakePiece(PageRun& rest) const {
  // As far as to a boundary, so that no unit is in two pieces.
  const uint64_t most = std::max(kPiecePages, pages_per_unit_);
  const PageRun piece{.first = rest.first, .count = std::min(rest.count, most - rest.first % most)};
  rest = {.first = rest.first + piece.count, .count = rest.count - piece.count};
  return piece;
}

PageRun Placer::Units(PageRun run) const {
  const uint64_t first = run.first / pages_per_unit_;
  const uint64_t last = (run.first + run.count - 1) / pages_per_unit_;
  return {.first = first, .count = last - first + 1};
}

absl::Status Placer::Put(PageRun, const uint8_t*) { return absl::OkStatus(); }

absl::Status Placer::Filled(PageRun run, const uint8_t* buffer) {
  FERRITE_RETURN_IF_ERROR(Put(run, buffer));
  SetPresent(run);
  lost_.Remove(run.first, run.count);
  return absl::OkStatus();
}

absl::Status Placer::Written(PageRun run) {
  FERRITE_RETURN_IF_ERROR(NoteWritten(run));
  SetPresent(run);
  lost_.Remove(run.first, run.count);
  return absl::OkStatus();
}

void Placer::CutOff(PageRun) {}

absl::Status Placer::FillZero(PageRun run) {
  FERRITE_RETURN_IF_ERROR(PutZero(run));
  lost_.Remove(run.first, run.count);
  return absl::OkStatus();
}

absl::Status Placer::NoteWritten(PageRun) { return NoMemoryWritten(); }

absl::Status Placer::Lose(PageRun) { return NoMemory(); }

absl::StatusOr<uint64_t> Placer::PublishPoison(PageRun) { return NoMemory(); }

absl::Status Placer::Discard(PageRun run) {
  // The bytes first: a page that counts as absent is never there.
  FERRITE_RETURN_IF_ERROR(Drop(run));
  const PageRun units = Units(run);
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    states_.Discard(unit);
  }
  lost_.Remove(units.first * pages_per_unit_, units.count * pages_per_unit_);
  return absl::OkStatus();
}

Placer::Claimed Placer::Claim(PageRun run) {
  const PageRun units = Units(run);
  uint64_t claimed = 0;
  bool wanted = false;
  while (claimed < units.count && states_.Claim(units.first + claimed, &wanted)) {
    ++claimed;
  }
  return {.run = {.first = run.first, .count = claimed * pages_per_unit_}, .wanted = wanted};
}

void Placer::BeginGathering(uint64_t) {}

absl::Status Placer::EndGathering(uint64_t) { return absl::OkStatus(); }

void Placer::Abandon(PageRun run) {
  const PageRun units = Units(run);
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    states_.Abandon(unit);
  }
}

void Placer::SetPresent(PageRun run) {
  const PageRun units = Units(run);
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    states_.SetPresent(unit);
  }
}

void Placer::Finish(PageRun run) {
  const PageRun units = Units(run);
  for (uint64_t unit = units.first; unit < units.first + units.count; ++unit) {
    states_.Finish(unit);
  }
}

}  // namespace ferrite::migration
