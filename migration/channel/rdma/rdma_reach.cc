#include "migration/channel/rdma/rdma_reach.h"

#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "memory/bus_fault.h"
#include "memory/guest_address.h"

namespace ferrite::migration {
namespace {

// Pages that are looked at for whether there is data in a chunk.
constexpr size_t kLookedAt = 64;

// Whether one of the first pages of `bytes` that are there has something in it. Allocates none.
bool HasData(std::span<uint8_t> bytes) {
  std::vector<unsigned char> there(bytes.size() / kPageBytes);
  if (mincore(bytes.data(), bytes.size(), there.data()) != 0) {
    return false;
  }
  size_t looked_at = 0;
  for (size_t page = 0; page < there.size() && looked_at < kLookedAt; ++page) {
    if ((there[page] & 1) == 0) {
      continue;
    }
    ++looked_at;
    bool has_data = false;
    const bool is_lost = TouchMemory([&] {
                           const uint8_t* const at = &bytes[page * kPageBytes];
                           has_data = at[0] != 0 || std::memcmp(at, at + 1, kPageBytes - 1) != 0;
                         }).has_value();
    if (has_data && !is_lost) {
      return true;
    }
  }
  return false;
}

// Whether a page of it cannot be read. All of it is there.
bool HasLost(std::span<uint8_t> bytes) {
  return TouchMemory([&] {
           for (size_t at = 0; at < bytes.size(); at += kPageBytes) {
             (void)*static_cast<const volatile uint8_t*>(&bytes[at]);
           }
         })
      .has_value();
}

}  // namespace

RdmaReach::RdmaReach(std::vector<std::span<uint8_t>> regions, const RdmaOptions& options,
                     std::shared_ptr<VerbsDomain> domain, std::shared_ptr<RdmaFigures> figures, const Clock& clock)
    : chunks_(std::move(regions), options.chunk_bytes),
      domain_(std::move(domain)),
      figures_(std::move(figures)),
      clock_(clock),
      state_(chunks_.count()) {}

RdmaReach::Way RdmaReach::Find(const PageRange& run) {
  const std::optional<size_t> index = chunks_.Find(run.region, run.first);
  if (!index.has_value()) {
    return {.pages = run.count};
  }
  const PageRange here{.region = run.region, .first = run.first, .count = chunks_.PagesInOne(run)};
  Way way{.pages = here.count};
  if (!Register(*index, /*needs_key=*/true)) {
    return way;
  }
  const absl::MutexLock lock(&mutex_);
  const Chunk& chunk = state_[*index];
  const uint64_t offset = (here.first - chunks_.pages(*index).first) * kPageBytes;
  way.is_written = true;
  way.from = {.memory = chunk.registered.get(), .bytes = chunks_.BytesOf(here)};
  way.to = {.address = chunk.remote.address + offset, .key = chunk.remote.key};
  return way;
}

RdmaReach::Readable RdmaReach::FindReadable(const PageRange& run, bool registers) {
  const std::optional<size_t> index = chunks_.Find(run.region, run.first);
  if (!index.has_value()) {
    return {.pages = run.count};
  }
  Readable readable{.pages = chunks_.PagesInOne(run)};
  if (registers) {
    (void)Register(*index, /*needs_key=*/false);
  }
  const absl::MutexLock lock(&mutex_);
  if (const Chunk& chunk = state_[*index]; chunk.memory == Memory::kRegistered) {
    const std::span<uint8_t> bytes =
        chunks_.BytesOf({.region = run.region, .first = run.first, .count = readable.pages});
    readable.key = {
        .given = true, .address = reinterpret_cast<uintptr_t>(bytes.data()), .key = chunk.registered->remote_key()};
  }
  return readable;
}

std::vector<RdmaReach::ReadableChunk> RdmaReach::ReadableChunks() {
  std::vector<ReadableChunk> readable;
  const absl::MutexLock lock(&mutex_);
  for (size_t i = 0; i < state_.size(); ++i) {
    const std::span<uint8_t> bytes = chunks_.bytes(i);
    if (state_[i].memory == Memory::kRegistered && !HasLost(bytes)) {
      readable.push_back({.pages = chunks_.pages(i),
                          .key = {.given = true,
                                  .address = reinterpret_cast<uintptr_t>(bytes.data()),
                                  .key = state_[i].registered->remote_key()}});
    }
  }
  return readable;
}

bool RdmaReach::Register(size_t index, bool needs_key) {
  {
    const absl::MutexLock lock(&mutex_);
    Chunk& chunk = state_[index];
    if ((needs_key && chunk.key != Key::kGiven) || chunk.memory != Memory::kUntouched) {
      return chunk.memory == Memory::kRegistered;
    }
    // Other channels do without meanwhile.
    chunk.memory = Memory::kRegistering;
  }
  const MonotonicTime start = clock_.Now();
  // To be read from outside, too: behind the switchover the destination fetches pages from here.
  absl::StatusOr<std::unique_ptr<RegisteredMemory>> registered =
      domain_->Register(chunks_.bytes(index), MemoryAccess::kRemoteRead);
  figures_->registering_nanoseconds += static_cast<uint64_t>(absl::ToInt64Nanoseconds(clock_.Now() - start));
  const absl::MutexLock lock(&mutex_);
  Chunk& chunk = state_[index];
  if (!registered.ok()) {
    chunk.memory = Memory::kRefused;
    ++figures_->refused_chunks;
    return false;
  }
  chunk.registered = *std::move(registered);
  chunk.memory = Memory::kRegistered;
  ++figures_->registered_chunks;
  figures_->registered_bytes += chunks_.bytes(index).size();
  return true;
}

std::vector<PageRange> RdmaReach::TakeAsks(const PageRange& run) {
  const std::optional<size_t> first = chunks_.Find(run.region, run.first);
  std::vector<PageRange> asks;
  if (!first.has_value() || !Ask(*first)) {
    return asks;
  }
  asks.push_back(chunks_.pages(*first));
  const std::optional<size_t> next = chunks_.Find(run.region, asks[0].first + asks[0].count);
  // What is registered is allocated, all of it: not for a look ahead.
  if (next.has_value() && HasData(chunks_.bytes(*next)) && Ask(*next)) {
    asks.push_back(chunks_.pages(*next));
  }
  return asks;
}

bool RdmaReach::Ask(size_t chunk) {
  const absl::MutexLock lock(&mutex_);
  if (state_[chunk].key != Key::kUnknown) {
    return false;
  }
  state_[chunk].key = Key::kAsked;
  return true;
}

absl::Status RdmaReach::OnKey(const PageRange& pages, const RemoteKey& key) {
  const std::optional<size_t> index = chunks_.Match(pages);
  const absl::MutexLock lock(&mutex_);
  if (!index.has_value() || state_[*index].key != Key::kAsked) {
    return absl::InvalidArgumentError(absl::StrCat("page frame: a key of pages ", pages.first, "+", pages.count,
                                                   " of region ", pages.region, ", which was not asked for"));
  }
  state_[*index].key = key.given ? Key::kGiven : Key::kNone;
  state_[*index].remote = key;
  return absl::OkStatus();
}

}  // namespace ferrite::migration
