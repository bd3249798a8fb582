// A guest without KVM: a thread that works in guest memory, and what a move needs of it at either side.
#ifndef FERRITE_TESTS_FAKES_FAKE_GUEST_H_
#define FERRITE_TESTS_FAKES_FAKE_GUEST_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/thread.h"
#include "memory/guest_memory.h"
#include "memory/page_range.h"
#include "migration/api/destination_machine.h"
#include "migration/api/source_machine.h"

namespace ferrite {

// What a FakeGuest does. Everything that it must find again after a move is in its state.
struct FakeGuestWork {
  uint64_t first_page = 0;
  uint64_t pages = 0;  // it works in [first_page, first_page + pages)
  bool random = true;  // or page by page
  uint64_t steps_between_yields = 64;
};

// Each step visits a page, checks that it holds what the step that visited it last has left there, and leaves its own
// number there (R1: a page that is older, or partly filled, is found). Threads: the thread of the test; the guest runs
// on one of its own.
class FakeGuest {
 public:
  FakeGuest(GuestMemory& memory, const FakeGuestWork& work);
  ~FakeGuest() { Pause(); }

  void Run();
  void Pause();
  bool running() const { return thread_.joinable(); }
  // It stands still for this part of the time, 0 to 99 percent.
  void SetThrottle(int percent) { throttle_ = percent; }
  pid_t thread_id() const { return thread_id_.load(); }

  uint64_t steps() const { return steps_.load(); }
  // Running: returns when it has made `count` more.
  void AwaitSteps(uint64_t count) const;
  // Pages that did not hold what they should, so far.
  uint64_t errors() const { return errors_.load(); }
  // Paused: looks at every page.
  uint64_t CheckAll();

  // Paused. The state is the guest's "registers".
  std::vector<uint8_t> Save() const;
  static absl::Status Check(std::span<const uint8_t> blob);
  void Load(std::span<const uint8_t> blob);

 private:
  void Step();
  uint8_t* PageAt(uint64_t page) const;
  void MarkWritten(uint64_t page);

  GuestMemory& memory_;
  FakeGuestWork work_;
  std::vector<uint64_t> last_;  // by page of the work: the step that visited it last
  std::atomic<uint64_t> steps_{0};
  std::atomic<uint64_t> errors_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> throttle_{0};
  std::atomic<pid_t> thread_id_{0};
  Thread thread_;
};

// What a test wants to go wrong, and where.
enum class FakeFailure {
  kNone,
  kDescribe,
  kStartDirtyTracking,
  kCollectDirty,
  kPause,
  kSaveState,
  kReleaseDisks,
  kRecordGrant,
  kBuild,
  kCheckState,
  kLoadState,
  kAcquireDisks,  // at the destination
  kTakeDisksBack,
  kRun,
};

class FakeSourcePort final : public migration::WholeSourceMachine {
 public:
  FakeSourcePort(GuestMemory& memory, FakeGuest& guest) : memory_(memory), guest_(guest) {}

  GuestMemory& memory() override { return memory_; }
  absl::StatusOr<migration::MachineSpec> Describe() override;
  absl::Status StartDirtyTracking() override;
  absl::Status CollectDirty(size_t index, PageBitmap& into) override;
  void StopDirtyTracking() override { tracking = false; }
  void AddUnneededPages(size_t index, PageBitmap& into) override;
  void InhibitBalloon() override { ++inhibited; }
  void AllowBalloon() override { --inhibited; }
  absl::Status Pause() override;
  absl::Status Resume() override;
  void StayPaused() override { stays_paused = true; }
  absl::Status SetThrottle(int percent) override {
    throttle = percent;
    guest_.SetThrottle(percent);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<uint8_t>> SaveState() override;
  absl::Status ReleaseDisks() override;
  absl::Status AcquireDisks() override;
  absl::Status RecordGrant(const migration::MoveId& id, uint64_t epoch, absl::string_view where) override;
  void Moved(absl::string_view where) override { moved_to = std::string(where); }

  std::vector<migration::OutgoingPart*> further_parts() override { return parts; }

  FakeFailure failure = FakeFailure::kNone;
  std::vector<migration::OutgoingPart*> parts;  // what moves beside the memory
  // Called in Pause() and Resume(), when the guest was.
  std::function<void()> on_pause;
  std::function<void()> on_resume;
  std::vector<uint64_t> ballooned;  // pages of region 0
  // While the guest runs, everything counts as written at every look: a guest that never converges, on any machine.
  bool restless = false;
  // Likewise this of region 0.
  PageRange always_written;
  int inhibited = 0;
  bool tracking = false;
  bool disks_held = true;
  bool stays_paused = false;  // the last move left it so
  int throttle = 0;
  bool grant_recorded = false;
  std::string moved_to;
  // Called in SaveState(), for a test that wants to act at the switchover.
  std::function<void()> on_save;
  // Called in RecordGrant(): before GRANT is sent.
  std::function<void()> on_grant;
  // Spoils the package.
  std::function<void(std::vector<uint8_t>&)> on_package;

 private:
  absl::Status Fail(FakeFailure where) const;

  GuestMemory& memory_;
  FakeGuest& guest_;
};

// Owns what it builds: the memory and the guest.
class FakeDestination final : public migration::MachineBuilder {
 public:
  explicit FakeDestination(MemoryBacking backing) : backing_(backing) {}

  absl::StatusOr<std::unique_ptr<migration::DestinationMachine>> Build(const migration::MachineSpec& spec) override;
  void Accepted() override { ++accepted; }
  void Dropped() override {
    ++dropped;
    guest_.reset();
    memory_.reset();
  }
  void Cancelled() override { cancelled = true; }

  GuestMemory* memory() { return memory_.get(); }
  // Null before the state was loaded.
  FakeGuest* guest() { return guest_.get(); }

  FakeFailure failure = FakeFailure::kNone;
  // Of the guest that is built; 0: as many as the source has.
  uint64_t bytes = 0;
  // Called in LoadState(), in Run() when the guest runs, and when all is here.
  std::function<void()> on_load;
  std::function<void()> on_run;
  std::function<void()> on_arrived;
  // Called for the machine that was built: what comes beside its memory.
  std::function<std::vector<migration::IncomingPart*>()> on_parts;
  // Whether the disks that are offered are both sides' already.
  bool declines_disks = false;
  // Called in Build(), after which the machine is refused if it returns an error.
  std::function<absl::Status()> on_build;
  std::atomic<int> accepted{0};
  std::atomic<int> dropped{0};
  std::atomic<bool> cancelled{false};
  int inhibited = 0;
  bool locked = true;
  bool thp = true;                       // its memory is to have transparent huge pages
  std::atomic<bool> guest_ended{false};  // set by a test
  bool disks_held = false;
  bool locked_while_receiving = false;  // R8

 private:
  friend class FakeDestinationPort;

  const MemoryBacking backing_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<FakeGuest> guest_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FAKE_GUEST_H_
