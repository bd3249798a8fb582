#include "devices/balloon/balloon.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite {
namespace {

// Room for the five queues of §5.5.2. Which index the reporting queue has depends on who is asked: by the text it is 4,
// but Linux (and so the other monitors) leaves no gaps for queues whose feature was not negotiated. As we never offer
// the free page hint, no index means two things.
constexpr std::array<uint16_t, 5> kQueueSizes = {256, 256, 256, 256, 256};
constexpr uint16_t kInflateQueue = 0;
constexpr uint16_t kDeflateQueue = 1;
constexpr uint16_t kStatisticsQueue = 2;

// struct virtio_balloon_config (§5.5.4) as far as our features have it: num_pages, then actual.
constexpr uint64_t kActualOffset = 4;

constexpr size_t kFramesAtOnce = 512;
constexpr uint64_t kMaxStatistics = 64;
// Of one ProcessQueue(), beside what is in the chains (Balloon::kPass). Linux sends 256 frames at once, but nothing
// limits a list.
constexpr int kChainsPerPass = 32;

// struct virtio_balloon_stat, 10 bytes without padding.
constexpr size_t kStatisticBytes = 10;

uint32_t PagesOf(uint64_t bytes) { return static_cast<uint32_t>(bytes / kPageBytes); }

}  // namespace

absl::string_view BalloonStatisticName(uint16_t tag) {
  static constexpr std::array<const char*, 10> kNames = {
      "swap_in",      "swap_out",         "major_faults", "minor_faults",        "free_memory",
      "total_memory", "available_memory", "disk_caches",  "hugetlb_allocations", "hugetlb_failures"};
  return tag < kNames.size() ? kNames[tag] : "";
}

Balloon::Balloon(GuestMemory& memory, uint64_t target_bytes)
    : memory_(memory),
      inhibitor_([this] {
        Lock lock(this);
        AnnounceTarget();
        if (active_ && pages_.pending()) {
          transport().RingDoorbell(kInflateQueue);
        }
      }),
      announced_pages_(PagesOf(std::min(target_bytes, memory.total_bytes()))),
      pages_(memory),
      target_pages_(announced_pages_) {}

absl::Status Balloon::SetTarget(uint64_t bytes) {
  if (bytes > memory_.total_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("balloon target ", bytes, " is more than the guest's ", memory_.total_bytes(), " bytes"));
  }
  target_pages_ = PagesOf(bytes);
  if (mutex_.TryLock()) {
    AnnounceTarget();
    mutex_.Unlock();
  } else {
    // Where the driver runs. One that comes later has its queues looked at then.
    RingDoorbell(kInflateQueue);
  }
  return absl::OkStatus();
}

void Balloon::AnnounceTarget() {
  const uint32_t target = target_pages_;
  if (announced_pages_ == target) {
    return;
  }
  const bool announced = inhibitor_.RunUnlessInhibited([this, target] {
    mutex_.AssertHeld();
    announced_pages_ = target;
  });
  if (announced && active_) {
    transport().NotifyConfigChange();
  }
}

uint64_t Balloon::target() const { return target_pages_.load() * kPageBytes; }

uint64_t Balloon::actual() const { return actual_pages_.load() * kPageBytes; }

void Balloon::SetListener(Listener listener) {
  Lock lock(this);
  listener_ = std::move(listener);
}

void Balloon::SetActual(uint32_t pages) {
  if (actual_pages_.exchange(pages) != pages && listener_) {
    IfThereIsMemory([&] {
      mutex_.AssertHeld();
      listener_(pages * kPageBytes);
    });
  }
}

absl::Status Balloon::RequestStatistics() {
  if (!has_statistics_) {
    return absl::FailedPreconditionError("the guest has no balloon driver with statistics (is it booted?)");
  }
  // The driver's buffer is given back in ProcessQueue(), which does not run while quiesced.
  statistics_wanted_ = true;
  RingDoorbell(kStatisticsQueue);
  return absl::OkStatus();
}

std::optional<BalloonStatistics> Balloon::statistics() const {
  absl::MutexLock lock(&statistics_mutex_);
  return statistics_;
}

std::vector<BalloonPages::Range> Balloon::InflatedRanges() const {
  Lock lock(this);
  return InflatedRangesLocked();
}

std::vector<BalloonPages::Range> Balloon::InflatedRangesLocked() const {
  // A list that is half done is not answered: no page of it is in the balloon yet of a driver that does not tell when
  // it takes it out again.
  return negotiated(kBalloonMustTellHost) ? pages_.Inflated() : std::vector<BalloonPages::Range>();
}

uint64_t Balloon::device_features() const {
  return kBalloonMustTellHost | kBalloonStatisticsQueue | kBalloonDeflateOnOom | kBalloonPageReporting;
}

std::span<const uint16_t> Balloon::queue_sizes() const { return kQueueSizes; }

void Balloon::ReadConfig(uint64_t offset, std::span<uint8_t> out) {
  const uint32_t config[2] = {announced_pages_, actual_pages_.load()};
  CopyConfig({reinterpret_cast<const uint8_t*>(config), sizeof(config)}, offset, out);
}

void Balloon::WriteConfig(uint64_t offset, std::span<const uint8_t> in) {
  // Only `actual` is the driver's; it is written whole.
  if (offset == kActualOffset && in.size() == sizeof(uint32_t)) {
    uint32_t actual;
    std::memcpy(&actual, in.data(), sizeof(actual));
    // A driver that claims more than there is can mean at most all of it.
    SetActual(std::min(actual, PagesOf(memory_.total_bytes())));
  }
}

void Balloon::Activate(uint64_t features) {
  active_ = true;
  features_ = features;
  has_statistics_ = negotiated(kBalloonStatisticsQueue);
}

void Balloon::ResetQueue(uint16_t index) {
  done_bytes_[index] = 0;
  if (index == kInflateQueue && !negotiated(kBalloonMustTellHost)) {
    pages_.Clear();  // of a list that was half done, which now is never
  }
  if (index == kStatisticsQueue) {
    statistics_head_.reset();
    statistics_wanted_ = false;
  }
}

void Balloon::Reset() {
  active_ = false;
  features_ = 0;
  has_statistics_ = false;
  SetActual(0);
  // The driver that comes next knows of no balloon: all memory is the guest's again.
  pages_.Clear();
  done_bytes_ = {};
  ResetQueue(kStatisticsQueue);
  absl::MutexLock lock(&statistics_mutex_);
  statistics_.reset();
}

Balloon::Role Balloon::RoleOf(uint16_t index) const {
  if (index == kInflateQueue) {
    return Role::kInflate;
  }
  if (index == kDeflateQueue) {
    return Role::kDeflate;
  }
  if (index == kStatisticsQueue && negotiated(kBalloonStatisticsQueue)) {
    return Role::kStatistics;
  }
  return negotiated(kBalloonPageReporting) ? Role::kReporting : Role::kNone;
}

absl::Status Balloon::ProcessQueue(uint16_t index) {
  const Role role = RoleOf(index);
  virtio::Queue& queue = transport().queue(index);
  Pass pass = kPass;
  if (role == Role::kInflate) {
    AnnounceTarget();
    // What was postponed, here or where a loaded state comes from. The rest of a list is done below.
    if (!Reclaim(pass)) {
      RingDoorbell(kInflateQueue);
    }
  }
  // Without a buffer of the driver's an answer is under way already.
  if (role == Role::kStatistics && statistics_wanted_.exchange(false) && statistics_head_.has_value()) {
    queue.Push(*std::exchange(statistics_head_, std::nullopt), 0);
  }
  for (int i = 0; i < kChainsPerPass; ++i) {
    absl::StatusOr<bool> took = false;
    switch (role) {
      case Role::kInflate:
      case Role::kDeflate:
        took = TakePages(index, pass);
        break;
      case Role::kStatistics:
        took = TakeStatistics(queue);
        break;
      case Role::kReporting:
        took = TakeReport(index, pass);
        break;
      case Role::kNone: {
        FERRITE_ASSIGN_OR_RETURN(const std::optional<virtio::Chain> chain, queue.Pop());
        if (chain.has_value()) {
          return absl::FailedPreconditionError("the feature that this queue belongs to was not negotiated");
        }
        break;
      }
    }
    FERRITE_RETURN_IF_ERROR(took.status());
    if (!*took) {
      break;
    }
  }
  transport().NotifyUsed(index);
  return absl::OkStatus();
}

absl::StatusOr<bool> Balloon::TakePages(uint16_t index, Pass& pass) {
  const bool inflate = index == kInflateQueue;
  virtio::Queue& queue = transport().queue(index);
  FERRITE_ASSIGN_OR_RETURN(const std::optional<virtio::Chain> chain, queue.Pop());
  if (!chain.has_value()) {
    return false;
  }
  absl::Cleanup unanswered = [&queue] { queue.PutBack(); };
  const uint64_t bytes = chain->readable_bytes();
  if (chain->writable_bytes() != 0 || bytes % sizeof(uint32_t) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a list of pages has ", bytes, " readable and ", chain->writable_bytes(), " writable bytes"));
  }
  std::array<uint32_t, kFramesAtOnce> frames;
  uint64_t& done = done_bytes_[index];
  while (done < bytes && pass.frames > 0 && (inflate || pass.share.calls > 0)) {
    const size_t count = std::min<uint64_t>({frames.size(), pass.frames, (bytes - done) / sizeof(uint32_t)});
    FERRITE_RETURN_IF_ERROR(chain->Read(done, {reinterpret_cast<uint8_t*>(frames.data()), count * sizeof(uint32_t)}));
    for (size_t i = 0; i < count; ++i) {
      const bool in_ram = inflate ? pages_.Inflate(frames[i]) : pages_.Deflate(frames[i], pass.share);
      if (!in_ram && !std::exchange(bad_page_logged_, true)) {
        Log().warn("virtio-balloon: the guest named page frame 0x{:x}, which is no RAM; ignored (logged once)",
                   frames[i]);
      }
    }
    done += count * sizeof(uint32_t);
    pass.frames -= count;
  }
  const bool given_back = !inflate || Reclaim(pass);
  if (done < bytes || !given_back) {
    return false;
  }
  done = 0;
  std::move(unanswered).Cancel();
  queue.Push(chain->head(), 0);
  if (inflate && !negotiated(kBalloonMustTellHost)) {
    // From the answer on they may be in use again.
    pages_.Clear();
  }
  return true;
}

bool Balloon::Reclaim(Pass& pass) {
  if (!pages_.pending()) {
    return true;
  }
  const bool allowed = inhibitor_.RunUnlessInhibited([this, &pass] {
    mutex_.AssertHeld();
    reclaimed_ += pages_.Reclaim(pass.share);
  });
  return !allowed || !pages_.pending();
}

absl::StatusOr<bool> Balloon::TakeStatistics(virtio::Queue& queue) {
  BalloonStatistics statistics;
  statistics.values.reserve(kMaxStatistics);  // before anything is taken that would be lost
  FERRITE_ASSIGN_OR_RETURN(const std::optional<virtio::Chain> chain, queue.Pop());
  if (!chain.has_value()) {
    return false;
  }
  if (chain->writable_bytes() != 0) {
    return absl::InvalidArgumentError("a statistics buffer has memory for the device to write");
  }
  statistics.time = MonotonicTime::Now();
  const uint64_t count = std::min(chain->readable_bytes() / kStatisticBytes, kMaxStatistics);
  for (uint64_t i = 0; i < count; ++i) {
    std::array<uint8_t, kStatisticBytes> bytes;
    FERRITE_RETURN_IF_ERROR(chain->Read(i * kStatisticBytes, bytes));
    BalloonStatistics::Value value;
    std::memcpy(&value.tag, bytes.data(), sizeof(value.tag));
    std::memcpy(&value.value, bytes.data() + sizeof(value.tag), sizeof(value.value));
    statistics.values.push_back(value);
  }
  {
    absl::MutexLock lock(&statistics_mutex_);
    statistics_ = std::move(statistics);
  }
  // The driver leaves one buffer with us (§5.5.6.3); of more, the latest counts.
  if (const auto previous = std::exchange(statistics_head_, chain->head()); previous.has_value()) {
    queue.Push(*previous, 0);
  }
  return true;
}

absl::StatusOr<bool> Balloon::TakeReport(uint16_t index, Pass& pass) {
  virtio::Queue& queue = transport().queue(index);
  FERRITE_ASSIGN_OR_RETURN(const std::optional<virtio::Chain> chain, queue.Pop());
  if (!chain.has_value()) {
    return false;
  }
  absl::Cleanup unanswered = [&queue] { queue.PutBack(); };
  if (chain->readable_bytes() != 0) {
    return absl::InvalidArgumentError("a report of free pages has memory for the device to read");
  }
  const uint64_t unit = memory_.regions()[0]->host_page_bytes();
  uint64_t& done = done_bytes_[index];
  uint64_t end = 0;  // of the segment, in the chain
  for (const auto& segment : chain->writable()) {
    end += segment.bytes.size();
    while (done < end) {
      if (pass.share.used_up()) {
        return false;
      }
      // Pieces end where host pages do, so that none is cut in two.
      const GuestAddress from = segment.address + (segment.bytes.size() - (end - done));
      const uint64_t limit = from.value() + std::max(pass.share.pages * kPageBytes, unit);
      const uint64_t piece = std::min(end - done, limit / unit * unit - from.value());
      inhibitor_.RunUnlessInhibited([&] {
        mutex_.AssertHeld();
        reclaimed_ += pages_.Discard(from, piece);
      });
      done += piece;
      pass.share.pages -= std::min(pass.share.pages, (piece + kPageBytes - 1) / kPageBytes);
      --pass.share.calls;
    }
  }
  done = 0;
  std::move(unanswered).Cancel();
  queue.Push(chain->head(), 0);
  return true;
}

void Balloon::Save(state::VirtioMmio::Builder out) const {
  auto balloon = out.initBalloon();
  balloon.setTargetPages(announced_pages_);
  balloon.setWantedPages(target_pages_);
  balloon.setActualPages(actual_pages_);
  const std::vector<BalloonPages::Range> ranges = InflatedRangesLocked();
  auto inflated = balloon.initInflated(ranges.size());
  for (size_t i = 0; i < ranges.size(); ++i) {
    inflated[i].setFirst(ranges[i].start.value() / kPageBytes);
    inflated[i].setCount(ranges[i].bytes / kPageBytes);
  }
  if (const std::optional<BalloonStatistics> last = this->statistics(); last.has_value()) {
    auto statistics = balloon.initStatistics(last->values.size());
    for (size_t i = 0; i < last->values.size(); ++i) {
      statistics[i].setTag(last->values[i].tag);
      statistics[i].setValue(last->values[i].value);
    }
  }
  balloon.setStatisticsBufferHeld(statistics_head_.has_value());
  balloon.setStatisticsHead(statistics_head_.value_or(0));
}

absl::Status Balloon::CheckState(state::VirtioMmio::Reader in) const {
  if (!in.isBalloon()) {
    return absl::InvalidArgumentError("the state is not that of a balloon");
  }
  const auto balloon = in.getBalloon();
  const uint32_t all_pages = PagesOf(memory_.total_bytes());
  if (std::max({balloon.getTargetPages(), balloon.getWantedPages(), balloon.getActualPages()}) > all_pages) {
    return absl::InvalidArgumentError(absl::StrCat("targetPages, wantedPages or actualPages is more than ", all_pages));
  }
  uint64_t end = 0;
  for (const auto range : balloon.getInflated()) {
    const GuestAddress start(range.getFirst() * kPageBytes);
    const MemoryRegion* region = range.getFirst() <= UINT64_MAX / kPageBytes ? memory_.Find(start) : nullptr;
    if (region == nullptr || range.getCount() == 0 || range.getFirst() < end ||
        range.getCount() > (region->end() - start) / kPageBytes) {
      return absl::InvalidArgumentError(absl::StrCat("inflated has ", range.getCount(), " pages from ",
                                                     range.getFirst(), ", which are no RAM or not in order"));
    }
    end = range.getFirst() + range.getCount();
  }
  if (balloon.getStatistics().size() > kMaxStatistics) {
    return absl::InvalidArgumentError(absl::StrCat("statistics has more than ", kMaxStatistics, " entries"));
  }
  if (balloon.getStatisticsBufferHeld()) {
    const auto queue = in.getQueues()[kStatisticsQueue];
    const uint16_t in_flight = queue.getNextAvailable() - queue.getNextUsed();
    if ((in.getDriverFeatures() & kBalloonStatisticsQueue) == 0 || !queue.getReady() || in_flight == 0 ||
        balloon.getStatisticsHead() >= queue.getSize()) {
      return absl::InvalidArgumentError("statisticsHead does not fit the statistics queue");
    }
  }
  return absl::OkStatus();
}

void Balloon::LoadState(state::VirtioMmio::Reader in) {
  const auto balloon = in.getBalloon();
  announced_pages_ = balloon.getTargetPages();
  target_pages_ = balloon.getWantedPages();
  for (const auto range : balloon.getInflated()) {
    // To be reclaimed here, too: pages that came with a snapshot, or before they were inflated, may hold memory.
    pages_.InflateRange({GuestAddress(range.getFirst() * kPageBytes), range.getCount() * kPageBytes});
  }
  if (balloon.getStatistics().size() != 0) {
    absl::MutexLock lock(&statistics_mutex_);
    statistics_.emplace();
    for (const auto statistic : balloon.getStatistics()) {
      statistics_->values.push_back({statistic.getTag(), statistic.getValue()});
    }
  }
  if (balloon.getStatisticsBufferHeld()) {
    statistics_head_ = balloon.getStatisticsHead();
  }
  SetActual(balloon.getActualPages());
}

}  // namespace ferrite
