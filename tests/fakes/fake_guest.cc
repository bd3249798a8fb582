#include "tests/fakes/fake_guest.h"

#include <sched.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

constexpr uint64_t kMagic = 0x6665727269746531;
constexpr uint64_t kWordsAtEnd = kPageBytes / sizeof(uint64_t) - 1;

struct Header {
  uint64_t magic;
  uint64_t steps;
  FakeGuestWork work;
};

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// A guest's accesses race with the monitor's by nature; a real one's are not seen by a sanitizer either.
__attribute__((no_sanitize("thread"))) uint64_t LoadWord(const uint8_t* page, uint64_t word) {
  return reinterpret_cast<const volatile uint64_t*>(page)[word];
}
__attribute__((no_sanitize("thread"))) void StoreWord(uint8_t* page, uint64_t word, uint64_t value) {
  reinterpret_cast<volatile uint64_t*>(page)[word] = value;
}

}  // namespace

FakeGuest::FakeGuest(GuestMemory& memory, const FakeGuestWork& work)
    : memory_(memory), work_(work), last_(work.pages) {}

uint8_t* FakeGuest::PageAt(uint64_t page) const {
  for (const auto& region : memory_.regions()) {
    if (page < region->pages()) {
      return region->guest_mapping().data() + page * kPageBytes;
    }
    page -= region->pages();
  }
  FERRITE_CHECK(false);
  return nullptr;
}

void FakeGuest::MarkWritten(uint64_t page) {
  for (const auto& region : memory_.regions()) {
    if (page < region->pages()) {
      region->MarkWritten(page * kPageBytes, kPageBytes);
      return;
    }
    page -= region->pages();
  }
}

void FakeGuest::Step() {
  const uint64_t step = steps_.load(std::memory_order_relaxed) + 1;
  const uint64_t index = work_.random ? Mix(step) % work_.pages : step % work_.pages;
  uint8_t* const page = PageAt(work_.first_page + index);
  // Both ends of the page: half a page of each age is found.
  if (LoadWord(page, 0) != last_[index] || LoadWord(page, kWordsAtEnd) != last_[index]) {
    errors_.fetch_add(1);
  }
  StoreWord(page, 0, step);
  StoreWord(page, kWordsAtEnd, step);
  MarkWritten(work_.first_page + index);
  last_[index] = step;
  steps_.store(step, std::memory_order_relaxed);
}

void FakeGuest::Run() {
  stop_ = false;
  thread_ = StartOrDie("fake-guest", [this] {
    thread_id_ = gettid();
    while (!stop_.load(std::memory_order_relaxed)) {
      const MonotonicTime begin = MonotonicTime::Now();
      for (uint64_t i = 0; i < work_.steps_between_yields; ++i) {
        Step();
      }
      if (const int percent = throttle_.load(std::memory_order_relaxed); percent > 0) {
        absl::SleepFor((MonotonicTime::Now() - begin) * percent / (100 - percent));
      } else {
        sched_yield();
      }
    }
  });
}

void FakeGuest::Pause() {
  stop_ = true;
  thread_.Join();
}

void FakeGuest::AwaitSteps(uint64_t count) const {
  for (const uint64_t before = steps(); steps() < before + count;) {
    sched_yield();
  }
}

uint64_t FakeGuest::CheckAll() {
  uint64_t wrong = 0;
  for (uint64_t index = 0; index < work_.pages; ++index) {
    const uint8_t* const page = PageAt(work_.first_page + index);
    wrong += LoadWord(page, 0) != last_[index] || LoadWord(page, kWordsAtEnd) != last_[index] ? 1 : 0;
  }
  return wrong;
}

std::vector<uint8_t> FakeGuest::Save() const {
  const Header header{.magic = kMagic, .steps = steps_.load(), .work = work_};
  std::vector<uint8_t> blob(sizeof(header) + last_.size() * sizeof(uint64_t));
  std::memcpy(blob.data(), &header, sizeof(header));
  std::memcpy(blob.data() + sizeof(header), last_.data(), last_.size() * sizeof(uint64_t));
  return blob;
}

absl::Status FakeGuest::Check(std::span<const uint8_t> blob) {
  Header header;
  if (blob.size() < sizeof(header)) {
    return absl::InvalidArgumentError("fake guest: the state is cut");
  }
  std::memcpy(&header, blob.data(), sizeof(header));
  if (header.magic != kMagic) {
    return absl::FailedPreconditionError("fake guest: unknown device 'magic'");
  }
  if (blob.size() != sizeof(header) + header.work.pages * sizeof(uint64_t)) {
    return absl::InvalidArgumentError("fake guest: the state is cut");
  }
  return absl::OkStatus();
}

void FakeGuest::Load(std::span<const uint8_t> blob) {
  Header header;
  std::memcpy(&header, blob.data(), sizeof(header));
  work_ = header.work;
  steps_ = header.steps;
  last_.resize(work_.pages);
  std::memcpy(last_.data(), blob.data() + sizeof(header), last_.size() * sizeof(uint64_t));
}

absl::Status FakeSourcePort::Fail(FakeFailure where) const {
  return failure == where ? absl::InternalError("injected failure") : absl::OkStatus();
}

absl::StatusOr<migration::MachineSpec> FakeSourcePort::Describe() {
  FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kDescribe));
  return migration::MachineSpec{.regions = {}, .kind = "fake", .version = 1, .machine = {}};
}

absl::Status FakeSourcePort::StartDirtyTracking() {
  FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kStartDirtyTracking));
  for (const auto& region : memory_.regions()) {
    PageBitmap before(region->pages());
    region->own_writes().TakeInto(before);
  }
  tracking = true;
  return absl::OkStatus();
}

absl::Status FakeSourcePort::CollectDirty(size_t index, PageBitmap& into) {
  FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kCollectDirty));
  memory_.regions()[index]->own_writes().TakeInto(into);
  if (restless && guest_.running()) {
    into.SetRange(0, into.pages());
  }
  if (index == 0 && always_written.count > 0 && guest_.running()) {
    into.SetRange(always_written.first, always_written.count);
  }
  return absl::OkStatus();
}

void FakeSourcePort::AddUnneededPages(size_t index, PageBitmap& into) {
  for (const uint64_t page : ballooned) {
    if (index == 0) {
      into.Set(page);
    }
  }
}

absl::Status FakeSourcePort::Pause() {
  FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kPause));
  guest_.Pause();
  if (on_pause) {
    on_pause();
  }
  return absl::OkStatus();
}

absl::Status FakeSourcePort::Resume() {
  stays_paused = false;
  guest_.Pause();
  guest_.Run();
  if (on_resume) {
    on_resume();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint8_t>> FakeSourcePort::SaveState() {
  if (on_save) {
    on_save();
  }
  FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kSaveState));
  std::vector<uint8_t> blob = guest_.Save();
  if (on_package) {
    on_package(blob);
  }
  return blob;
}

absl::Status FakeSourcePort::ReleaseDisks() {
  FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kReleaseDisks));
  disks_held = false;
  return absl::OkStatus();
}

absl::Status FakeSourcePort::AcquireDisks() {
  FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kTakeDisksBack));
  disks_held = true;
  return absl::OkStatus();
}

absl::Status FakeSourcePort::RecordGrant(const migration::MoveId&, uint64_t, absl::string_view) {
  FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kRecordGrant));
  grant_recorded = true;
  if (on_grant) {
    on_grant();
  }
  return absl::OkStatus();
}

class FakeDestinationPort final : public migration::WholeDestinationMachine {
 public:
  explicit FakeDestinationPort(FakeDestination& owner) : owner_(owner) {}

  GuestMemory& memory() override { return *owner_.memory_; }
  std::vector<migration::IncomingPart*> further_parts() override {
    return owner_.on_parts ? owner_.on_parts() : std::vector<migration::IncomingPart*>();
  }
  bool Declines(const migration::MachineSpec::Region&) override { return owner_.declines_disks; }
  void InhibitBalloon() override { ++owner_.inhibited; }
  void AllowBalloon() override {
    --owner_.inhibited;
    Call(owner_.on_arrived);
  }
  absl::Status SetLocked(bool locked) override {
    owner_.locked = locked;
    return absl::OkStatus();
  }
  absl::Status CheckState(std::span<const uint8_t> blob) override {
    FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kCheckState));
    return FakeGuest::Check(blob);
  }
  absl::StatusOr<absl::Duration> MeasureLoad() override { return absl::Microseconds(100); }
  absl::Status LoadState(std::span<const uint8_t> blob) override {
    FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kLoadState));
    owner_.locked_while_receiving = owner_.locked;
    owner_.guest_->Load(blob);
    Call(owner_.on_load);
    return absl::OkStatus();
  }
  absl::Status AcquireDisks() override {
    FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kAcquireDisks));
    owner_.disks_held = true;
    return absl::OkStatus();
  }
  absl::Status Run() override {
    FERRITE_RETURN_IF_ERROR(Fail(FakeFailure::kRun));
    owner_.guest_->Run();
    Call(owner_.on_run);
    return absl::OkStatus();
  }
  bool Ended() override { return owner_.guest_ended; }
  std::optional<uint32_t> VcpuOfThread(pid_t thread) override {
    return thread == owner_.guest_->thread_id() ? std::optional<uint32_t>(0) : std::nullopt;
  }

 private:
  static void Call(const std::function<void()>& hook) {
    if (hook) {
      hook();
    }
  }
  absl::Status Fail(FakeFailure where) const {
    return owner_.failure == where ? absl::InternalError("injected failure") : absl::OkStatus();
  }

  FakeDestination& owner_;
};

absl::StatusOr<std::unique_ptr<migration::DestinationMachine>> FakeDestination::Build(
    const migration::MachineSpec& spec) {
  if (failure == FakeFailure::kBuild) {
    return absl::FailedPreconditionError("the CPU here lacks avx512_fake");
  }
  if (on_build) {
    FERRITE_RETURN_IF_ERROR(on_build());
  }
  guest_.reset();
  uint64_t theirs = 0;
  for (const migration::MachineSpec::Region& region : spec.regions) {
    theirs += region.kind == migration::RegionKind::kRam ? region.bytes : 0;
  }
  FERRITE_ASSIGN_OR_RETURN(memory_, GuestMemory::Create(bytes != 0 ? bytes : theirs, backing_));
  for (const auto& region : memory_->regions()) {
    FERRITE_RETURN_IF_ERROR(region->SetThp(thp));
  }
  guest_ = std::make_unique<FakeGuest>(*memory_, FakeGuestWork{});
  return std::make_unique<FakeDestinationPort>(*this);
}

}  // namespace ferrite
