#include "migration/channel/rdma/rdma_place.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "memory/guest_address.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/preamble.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kTouchedPages = kLeastRdmaChunk / kPageBytes;

absl::Status NoChunk(const PageRange& pages) {
  return absl::InvalidArgumentError(absl::StrCat("page frame: a key of pages ", pages.first, "+", pages.count,
                                                 " of region ", pages.region, ", which are no chunk"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<RdmaPlace>> RdmaPlace::Create(std::vector<std::span<uint8_t>> regions,
                                                             const RdmaOptions& options,
                                                             std::shared_ptr<RdmaFigures> figures, const Host& host) {
  std::shared_ptr<RdmaPlace> place(new RdmaPlace(std::move(regions), options, std::move(figures), host));
  FERRITE_ASSIGN_OR_RETURN(place->thread_, host.threads.Start("mig-rdma-reg", ThreadClass::kBulk,
                                                              [self = place.get()] { self->RegisterAll(); }));
  return place;
}

RdmaPlace::RdmaPlace(std::vector<std::span<uint8_t>> regions, const RdmaOptions& options,
                     std::shared_ptr<RdmaFigures> figures, const Host& host)
    : regions_(std::move(regions)), options_(options), figures_(std::move(figures)), host_(host) {
  for (const std::span<uint8_t> region : regions_) {
    touched_.emplace_back(region.size() / kPageBytes / kTouchedPages + 1);
  }
}

bool RdmaPlace::MayHaveWritten(size_t region, uint64_t page) const {
  return region < touched_.size() && page / kTouchedPages < touched_[region].size() &&
         touched_[region][page / kTouchedPages].load(std::memory_order_acquire);
}

void RdmaPlace::End() {
  const absl::MutexLock end_lock(&end_mutex_);
  if (ended_.load(std::memory_order_acquire)) {
    return;
  }
  {
    const absl::MutexLock lock(&mutex_);
    ending_ = true;
    for (QueuePair* const pair : pairs_) {
      pair->Break();
    }
  }
  // What it is registering is not to be registered for anybody.
  thread_.Join();
  std::vector<Chunk> state;
  {
    const absl::MutexLock lock(&mutex_);
    state.swap(state_);
    state_.resize(state.size());
    for (Chunk& chunk : state_) {
      chunk.state = State::kNone;
    }
    wishes_.clear();
  }
  // Each is waited for.
  state.clear();
  ended_.store(true, std::memory_order_release);
}

void RdmaPlace::Begin(std::shared_ptr<VerbsDomain> domain) {
  const absl::MutexLock lock(&mutex_);
  if (domain_ != nullptr || ending_) {
    return;
  }
  domain_ = std::move(domain);
  if (options_.pin == RdmaPin::kAll) {
    Cut(options_.chunk_bytes);
    unasked_ = chunks_->count();
  }
}

void RdmaPlace::Cut(uint64_t chunk_bytes) {
  chunks_.emplace(regions_, chunk_bytes);
  state_.resize(chunks_->count());
}

absl::Status RdmaPlace::Ask(const PageRange& pages, std::shared_ptr<StreamWriter> answer) {
  Wish wish{.chunk = 0, .answer = std::move(answer)};
  RemoteKey known;
  {
    const absl::MutexLock lock(&mutex_);
    if (domain_ == nullptr || pages.region >= regions_.size()) {
      return NoChunk(pages);
    }
    // The source does not know which memory is not written from outside.
    if (!regions_[pages.region].empty() && !ending_) {
      FERRITE_ASSIGN_OR_RETURN(wish.chunk, Match(pages));
      const State state = state_[wish.chunk].state;
      if (state != State::kGiven && state != State::kNone) {
        if (wishes_.size() >= kMaxChannels * state_.size()) {
          return absl::InvalidArgumentError("page frame: keys are asked for over and over");
        }
        wishes_.push_back(std::move(wish));
        return absl::OkStatus();
      }
      known = state_[wish.chunk].key;
    }
  }
  Answer(wish, pages, known);
  return absl::OkStatus();
}

absl::StatusOr<size_t> RdmaPlace::Match(const PageRange& pages) {
  if (!chunks_.has_value()) {
    const uint64_t bytes = pages.count * kPageBytes;
    const bool is_region = pages.first == 0 && bytes == regions_[pages.region].size();
    // One that is all of its region says no more than that they are no smaller.
    if (pages.count > kMostRdmaChunk / kPageBytes || !(IsRdmaChunk(bytes) || is_region)) {
      return NoChunk(pages);
    }
    Cut(IsRdmaChunk(bytes) ? bytes : kMostRdmaChunk);
  }
  const std::optional<size_t> chunk = chunks_->Match(pages);
  return chunk.has_value() ? absl::StatusOr<size_t>(*chunk) : NoChunk(pages);
}

void RdmaPlace::Answer(const Wish& wish, const PageRange& pages, const RemoteKey& key) {
  if (wish.answer == nullptr) {
    return;
  }
  std::array<uint8_t, kPageHeaderBytes + kRemoteKeyBytes> bytes;
  const auto header = EncodePageHeader(HeaderOf(PageFrameType::kKey, pages));
  const auto body = EncodeRemoteKey(key);
  std::copy(body.begin(), body.end(), std::copy(header.begin(), header.end(), bytes.begin()));
  // Where that does not go, the channel's own thread finds it.
  (void)wish.answer->Write(bytes);
}

void RdmaPlace::RegisterAll() {
  while (true) {
    Wish wish;
    {
      const absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &RdmaPlace::HasWork));
      if (ending_) {
        return;
      }
      if (!wishes_.empty()) {
        wish = std::move(wishes_.front());
        wishes_.pop_front();
      } else {
        wish = {.chunk = chunks_->count() - unasked_--, .answer = nullptr};
      }
    }
    IfThereIsMemory([&] { Register(wish); });
  }
}

void RdmaPlace::Register(const Wish& wish) {
  PageRange pages;
  std::span<uint8_t> bytes;
  std::shared_ptr<VerbsDomain> domain;
  bool is_known = false;
  RemoteKey key;
  {
    const absl::MutexLock lock(&mutex_);
    pages = chunks_->pages(wish.chunk);
    bytes = chunks_->bytes(wish.chunk);
    domain = domain_;
    const Chunk& chunk = state_[wish.chunk];
    is_known = chunk.state == State::kGiven || chunk.state == State::kNone;
    key = chunk.key;
  }
  if (!is_known) {
    // Before anything can be written: who finds a page here that was not told of looks at this.
    for (uint64_t at = pages.first; at < pages.first + pages.count; at += kTouchedPages) {
      touched_[pages.region][at / kTouchedPages].store(true, std::memory_order_release);
    }
    const MonotonicTime start = host_.clock.Now();
    absl::StatusOr<std::unique_ptr<RegisteredMemory>> registered = domain->Register(bytes, MemoryAccess::kRemoteWrite);
    figures_->registering_nanoseconds += static_cast<uint64_t>(absl::ToInt64Nanoseconds(host_.clock.Now() - start));
    if (registered.ok()) {
      key = {.given = true, .address = reinterpret_cast<uintptr_t>(bytes.data()), .key = (*registered)->remote_key()};
      ++figures_->registered_chunks;
      figures_->registered_bytes += bytes.size();
    } else if (figures_->refused_chunks++ == 0) {
      host_.log.Warn(absl::StrCat("receive: memory cannot be registered for RDMA: ", registered.status().message(),
                                  "; its pages come over TCP"));
    }
    const absl::MutexLock lock(&mutex_);
    Chunk& chunk = state_[wish.chunk];
    chunk.state = key.given ? State::kGiven : State::kNone;
    chunk.key = key;
    chunk.registered = registered.ok() ? *std::move(registered) : nullptr;
  }
  Answer(wish, pages, key);
}

absl::Status RdmaPlace::CheckWritten(const PageRange& run) const {
  const absl::MutexLock lock(&mutex_);
  for (PageRange rest = run; rest.count > 0;) {
    const std::optional<size_t> chunk = chunks_.has_value() ? chunks_->Find(rest.region, rest.first) : std::nullopt;
    if (!chunk.has_value() || state_[*chunk].state != State::kGiven) {
      return absl::InvalidArgumentError(absl::StrCat("page frame: pages ", run.first, "+", run.count, " of region ",
                                                     run.region, " were written without a key"));
    }
    const uint64_t pages = chunks_->PagesInOne(rest);
    rest.first += pages;
    rest.count -= pages;
  }
  return absl::OkStatus();
}

bool RdmaPlace::Add(QueuePair& pair) {
  const absl::MutexLock lock(&mutex_);
  return !ending_ && pairs_.insert(&pair).second;
}

void RdmaPlace::Remove(QueuePair& pair) {
  const absl::MutexLock lock(&mutex_);
  pairs_.erase(&pair);
}

}  // namespace ferrite::migration
