#include "tests/fakes/rdma_wire.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <numeric>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/page_map.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kPage = 4096;

// Guests write what is read here, and read what is written: as a device's access, it is none that a sanitizer sees.
void Copy(uint8_t* to, const uint8_t* from, size_t bytes) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

absl::Status Failed(absl::string_view what) { return absl::UnavailableError(what); }
absl::Status Flushed() { return Failed("Work Request Flushed Error"); }

bool Contains(std::span<const uint8_t> memory, uint64_t address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(memory.data());
  return address >= begin && bytes <= memory.size() && address - begin <= memory.size() - bytes;
}

// Whether the page of a mapping of this process is in memory, or in swap.
bool IsThere(uint64_t address) {
  const absl::StatusOr<int> map = OwnPageMap();
  uint64_t entry = 0;
  FERRITE_CHECK(map.ok());
  FERRITE_CHECK(pread(*map, &entry, sizeof(entry), static_cast<off_t>(address / kPage * sizeof(entry))) ==
                sizeof(entry));
  return (entry >> 62) != 0;
}

}  // namespace

RdmaWire::RdmaWire() { limits_.fill(std::numeric_limits<uint64_t>::max()); }

absl::Status RdmaWire::Step(Call call, End end) {
  const TimedMutexLock lock(&mutex_);
  return StepLocked(call, end);
}

absl::Status RdmaWire::StepLocked(Call call, End end) {
  steps_++;
  bool fails = false;
  std::erase_if(failures_, [&](Failure& failure) {
    if (failure.of && *failure.of != std::pair(call, end)) return false;
    if (failure.good-- > 0) return false;
    fails = true;
    return true;
  });
  if (!fails) return absl::OkStatus();
  if (call == Call::kRegister) return absl::ResourceExhaustedError("register memory: failed, as a test wants it");
  return absl::UnavailableError("rdma: failed, as a test wants it");
}

absl::StatusOr<uint32_t> RdmaWire::Register(End end, uint64_t domain, std::span<uint8_t> memory, MemoryAccess access) {
  {
    const TimedMutexLock lock(&mutex_);
    FERRITE_RETURN_IF_ERROR(StepLocked(Call::kRegister, end));
    const auto let_go = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !IsHeld(Held::kRegistrations, kAll); };
    waiting_registrations_++;
    mutex_.Await(absl::Condition(&let_go));
    waiting_registrations_--;
    if (RegisteredLocked(end) + memory.size() > limits_[static_cast<size_t>(end)]) {
      return absl::ResourceExhaustedError("register memory: the limit of the test");
    }
  }
  const uint64_t begin = reinterpret_cast<uintptr_t>(memory.data()) / kPage * kPage;
  const uint64_t bytes = reinterpret_cast<uintptr_t>(memory.data()) + memory.size() - begin;
  if (madvise(reinterpret_cast<void*>(begin), bytes, MADV_POPULATE_WRITE) != 0) {
    return absl::FailedPreconditionError(ErrnoStatus(absl::StrCat("register ", bytes, " bytes")).message());
  }
  const TimedMutexLock lock(&mutex_);
  const uint32_t key = next_key_;
  next_key_ += 0x101;
  registered_[key] = {.end = end, .domain = domain, .memory = memory, .access = access};
  return key;
}

void RdmaWire::Deregister(uint32_t key) {
  const TimedMutexLock lock(&mutex_);
  registered_.erase(key);
}

uint64_t RdmaWire::NewDomain() {
  const TimedMutexLock lock(&mutex_);
  return domains_++;
}

size_t RdmaWire::NewConnection(absl::string_view greeting) {
  const TimedMutexLock lock(&mutex_);
  greetings_.emplace_back(greeting);
  return greetings_.size() - 1;
}

void RdmaWire::Join(Side& source, Side& destination) {
  const TimedMutexLock lock(&mutex_);
  source.other = &destination;
  destination.other = &source;
  sides_.push_back(&source);
  sides_.push_back(&destination);
}

void RdmaWire::Leave(Side& side) {
  const TimedMutexLock lock(&mutex_);
  Side* const other = side.other;
  BreakLocked(side);
  std::erase(sides_, &side);
  std::erase_if(late_, [&](const LateWrite& late) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (late.to != &side) return false;
    counts_.refused++;
    counts_.late++;
    return true;
  });
  if (other == nullptr) return;
  other->other = nullptr;
  BreakLocked(*other);
}

absl::Status RdmaWire::Post(Side& side, const Side::Work& work, Call call) {
  const TimedMutexLock lock(&mutex_);
  if (side.broken) return Failed("the queue pair is broken");
  const bool receives = work.kind == WorkKind::kReceive;
  size_t& under_way = receives ? side.receives_under_way : side.work_under_way;
  if (under_way >= (receives ? QueuePair::kMostReceives : QueuePair::kMostWork)) {
    return absl::ResourceExhaustedError("too many work requests for a queue pair");
  }
  if (absl::Status failed = StepLocked(call, side.end); !failed.ok()) {
    BreakLocked(side);
    return failed;
  }
  under_way++;
  (receives ? side.receives : side.work).push_back(work);
  // A SEND of the other side may have waited for it.
  if (receives && side.other != nullptr) Advance(*side.other);
  if (!receives) Advance(side);
  return absl::OkStatus();
}

size_t RdmaWire::Take(Side& side, std::span<Completion> into) {
  const TimedMutexLock lock(&mutex_);
  Advance(side, true);
  const size_t count = std::min(into.size(), side.done.size() - side.held);
  for (size_t i = 0; i < count; i++) {
    (side.done.front().kind == WorkKind::kReceive ? side.receives_under_way : side.work_under_way)--;
    into[i] = std::move(side.done.front());
    side.done.pop_front();
  }
  return count;
}

void RdmaWire::Arm(Side& side) {
  const TimedMutexLock lock(&mutex_);
  if (side.broken) return;  // stays readable
  side.event.Drain();
  side.armed = true;
  Advance(side, true);
}

void RdmaWire::Break(Side& side) {
  const TimedMutexLock lock(&mutex_);
  BreakLocked(side);
}

bool RdmaWire::broken(const Side& side) const {
  const TimedMutexLock lock(&mutex_);
  return side.broken;
}

void RdmaWire::Wake(Side& side) {
  if (side.armed) side.event.Signal();
  side.armed = false;
}

void RdmaWire::Complete(Side& side, const Completion& completion) {
  side.done.push_back(completion);
  if (side.held > 0 || (!side.broken && IsHeld(Held::kCompletions, side.connection))) {
    side.held++;
  } else {
    Wake(side);
  }
}

void RdmaWire::BreakLocked(Side& side) {
  if (side.broken) return;
  side.broken = true;
  side.held = 0;
  for (const Side::Work& work : std::exchange(side.work, {})) {
    // It has left already, and arrives whatever becomes of who sent it.
    if (work.kind == WorkKind::kWrite && side.other != nullptr && IsHeld(Held::kWork, side.connection) &&
        MayLocally(side.domain, work.local_key, work.local)) {
      late_.push_back({.to = side.other, .remote = work.remote, .bytes = std::vector<uint8_t>(work.local.size())});
      Copy(late_.back().bytes.data(), work.local.data(), work.local.size());
    }
    Complete(side, {.id = work.id, .kind = work.kind, .status = Flushed()});
  }
  for (const Side::Work& receive : std::exchange(side.receives, {})) {
    Complete(side, {.id = receive.id, .kind = receive.kind, .status = Flushed()});
  }
  side.armed = true;
  Wake(side);
  if (side.other != nullptr) Advance(*side.other);
}

void RdmaWire::Advance(Side& side, bool looked_for) {
  if (side.at_work) return;
  side.at_work = true;
  while (!side.work.empty() && !side.broken && !IsHeld(Held::kWork, side.connection)) {
    if (order_ && side.work.front().kind == WorkKind::kWrite) {
      const auto is_write = [](const Side::Work& work) { return work.kind == WorkKind::kWrite; };
      const auto writes = std::find_if_not(side.work.begin(), side.work.end(), is_write) - side.work.begin();
      if (static_cast<size_t>(writes) == side.work.size() && !looked_for) break;
      DoReordered(side, static_cast<size_t>(writes));
      continue;
    }
    const bool may_wait = side.work.front().kind == WorkKind::kSend && side.other != nullptr;
    if (may_wait && !side.other->broken && side.other->receives.empty()) break;
    const Side::Work work = side.work.front();
    side.work.pop_front();
    const absl::Status status = Do(side, work);
    Complete(side, {.id = work.id, .kind = work.kind, .status = status});
    if (!status.ok()) BreakLocked(side);
  }
  side.at_work = false;
}

void RdmaWire::DoReordered(Side& side, size_t count) {
  const std::vector<Side::Work> writes(side.work.begin(), side.work.begin() + static_cast<ptrdiff_t>(count));
  side.work.erase(side.work.begin(), side.work.begin() + static_cast<ptrdiff_t>(count));
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), *order_);
  std::vector<absl::Status> statuses(count, Flushed());
  size_t failed = count;
  for (const size_t i : order) {
    statuses[i] = Do(side, writes[i]);
    if (statuses[i].ok()) continue;
    failed = i;
    break;
  }
  for (size_t i = 0; i < count; i++) {
    Complete(side, {.id = writes[i].id, .kind = WorkKind::kWrite, .status = i > failed ? Flushed() : statuses[i]});
  }
  if (failed < count) BreakLocked(side);
}

absl::Status RdmaWire::Do(Side& side, const Side::Work& work) {
  const Call call = work.kind == WorkKind::kWrite  ? Call::kWrite
                    : work.kind == WorkKind::kRead ? Call::kRead
                                                   : Call::kSend;
  FERRITE_RETURN_IF_ERROR(StepLocked(call, side.end));
  if (!MayLocally(side.domain, work.local_key, work.local)) return Failed("local protection error");
  if (side.other == nullptr || side.other->broken) {
    if (work.kind != WorkKind::kSend) counts_.refused++;
    return Failed("transport retry counter exceeded");
  }
  if (work.kind == WorkKind::kSend) return Send(side, work);
  const bool writes = work.kind == WorkKind::kWrite;
  std::span<uint8_t> memory;
  if (!MayRemotely(*side.other, work.remote, work.local.size(),
                   writes ? MemoryAccess::kRemoteWrite : MemoryAccess::kRemoteRead, memory)) {
    BreakLocked(*side.other);
    return Failed("remote access error");
  }
  if (writes) {
    Write(memory, work.local);
    counts_.writes++;
    counts_.written_bytes += memory.size();
  } else {
    Copy(work.local.data(), memory.data(), memory.size());
    counts_.reads++;
    counts_.read_bytes += memory.size();
  }
  return absl::OkStatus();
}

absl::Status RdmaWire::Send(Side& side, const Side::Work& work) {
  Side& other = *side.other;
  const Side::Work receive = other.receives.front();
  other.receives.pop_front();
  absl::string_view error;
  if (!MayLocally(other.domain, receive.local_key, receive.local)) error = "local protection error";
  if (work.local.size() > receive.local.size()) error = "local length error";
  if (!error.empty()) {
    Complete(other, {.id = receive.id, .kind = WorkKind::kReceive, .status = Failed(error)});
    BreakLocked(other);
    return Failed("remote invalid request error");
  }
  Copy(receive.local.data(), work.local.data(), work.local.size());
  counts_.sends++;
  Complete(other, {.id = receive.id,
                   .kind = WorkKind::kReceive,
                   .status = absl::OkStatus(),
                   .bytes = static_cast<uint32_t>(work.local.size())});
  return absl::OkStatus();
}

void RdmaWire::Write(std::span<uint8_t> to, std::span<const uint8_t> from) {
  for (size_t done = 0; done < to.size();) {
    const auto address = reinterpret_cast<uintptr_t>(to.data()) + done;
    const size_t bytes = std::min<size_t>(to.size() - done, kPage - address % kPage);
    if (IsThere(address)) {
      Copy(to.data() + done, from.data() + done, bytes);
    } else {
      counts_.lost_bytes += bytes;
    }
    done += bytes;
  }
}

bool RdmaWire::MayLocally(uint64_t domain, uint32_t key, std::span<const uint8_t> memory) const {
  const auto found = registered_.find(key);
  return found != registered_.end() && found->second.domain == domain &&
         Contains(found->second.memory, reinterpret_cast<uintptr_t>(memory.data()), memory.size());
}

bool RdmaWire::MayRemotely(const Side& to, const RemotePiece& piece, size_t bytes, MemoryAccess access,
                           std::span<uint8_t>& memory) {
  const auto found = registered_.find(piece.key);
  const bool granted = access == MemoryAccess::kRemoteWrite ? to.terms.remote_write : to.terms.remote_read;
  if (to.broken || !granted || found == registered_.end() || found->second.domain != to.domain ||
      found->second.access != access || !Contains(found->second.memory, piece.address, bytes)) {
    counts_.refused++;
    return false;
  }
  memory = {reinterpret_cast<uint8_t*>(piece.address), bytes};
  return true;
}

bool RdmaWire::IsHeld(Held held, size_t connection) const {
  return std::ranges::any_of(holds_, [&](const std::pair<Held, size_t>& hold) {
    return hold.first == held && (hold.second == kAll || hold.second == connection);
  });
}

size_t RdmaWire::CountHeld(Held held) const {
  if (held == Held::kRegistrations) return waiting_registrations_;
  size_t count = held == Held::kWork ? late_.size() : 0;
  for (const Side* side : sides_) {
    if (held == Held::kCompletions) count += side->held;
    if (held == Held::kWork && IsHeld(held, side->connection)) count += side->work.size();
  }
  return count;
}

void RdmaWire::LimitRegistered(End end, uint64_t bytes) {
  const TimedMutexLock lock(&mutex_);
  limits_[static_cast<size_t>(end)] = bytes;
}

void RdmaWire::FailAfter(Call call, End end, uint64_t good) {
  const TimedMutexLock lock(&mutex_);
  failures_.push_back({.of = std::pair(call, end), .good = good});
}

void RdmaWire::FailStepAfter(uint64_t good) {
  const TimedMutexLock lock(&mutex_);
  failures_.push_back({.of = std::nullopt, .good = good});
}

uint64_t RdmaWire::steps() const {
  const TimedMutexLock lock(&mutex_);
  return steps_;
}

void RdmaWire::Hold(Held held, size_t connection) {
  const TimedMutexLock lock(&mutex_);
  holds_.emplace_back(held, connection);
}

void RdmaWire::LetGo(Held held, size_t connection) {
  const TimedMutexLock lock(&mutex_);
  std::erase_if(holds_, [&](const std::pair<Held, size_t>& hold) {
    return hold.first == held && (connection == kAll || hold.second == connection);
  });
  for (Side* side : sides_) {
    if (side->held == 0 || IsHeld(Held::kCompletions, side->connection)) continue;
    side->held = 0;
    Wake(*side);
  }
  std::erase_if(late_, [&](const LateWrite& late) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (IsHeld(Held::kWork, late.to->connection)) return false;
    std::span<uint8_t> memory;
    counts_.late++;
    if (MayRemotely(*late.to, late.remote, late.bytes.size(), MemoryAccess::kRemoteWrite, memory)) {
      Write(memory, late.bytes);
      counts_.writes++;
      counts_.written_bytes += memory.size();
    }
    return true;
  });
  for (Side* side : sides_) Advance(*side);
}

bool RdmaWire::AwaitHeld(Held held, size_t count) {
  const TimedMutexLock lock(&mutex_);
  const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return CountHeld(held) >= count; };
  return mutex_.AwaitFor(absl::Condition(&reached), absl::Seconds(20));
}

void RdmaWire::TimeOut(size_t connection) {
  const TimedMutexLock lock(&mutex_);
  for (Side* side : sides_) {
    if (side->connection != connection || side->work.empty()) continue;
    const Side::Work work = side->work.front();
    side->work.pop_front();
    Complete(*side, {.id = work.id, .kind = work.kind, .status = Failed("transport retry counter exceeded")});
    BreakLocked(*side);
  }
}

void RdmaWire::Reorder(uint64_t seed) {
  const TimedMutexLock lock(&mutex_);
  order_.emplace(seed);
}

void RdmaWire::Cut(size_t connection) {
  const TimedMutexLock lock(&mutex_);
  for (Side* side : sides_) {
    if (side->connection == connection) BreakLocked(*side);
  }
}

RdmaWire::Counts RdmaWire::counts() const {
  const TimedMutexLock lock(&mutex_);
  return counts_;
}

size_t RdmaWire::registrations(End end) const {
  const TimedMutexLock lock(&mutex_);
  return static_cast<size_t>(
      std::ranges::count_if(registered_, [&](const auto& registered) { return registered.second.end == end; }));
}

uint64_t RdmaWire::registered_bytes(End end) const {
  const TimedMutexLock lock(&mutex_);
  return RegisteredLocked(end);
}

uint64_t RdmaWire::RegisteredLocked(End end) const {
  uint64_t bytes = 0;
  for (const auto& [key, registered] : registered_) bytes += registered.end == end ? registered.memory.size() : 0;
  return bytes;
}

std::vector<std::string> RdmaWire::greetings() const {
  const TimedMutexLock lock(&mutex_);
  return greetings_;
}

}  // namespace ferrite::migration
