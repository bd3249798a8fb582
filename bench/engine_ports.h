// The two ports that the engine needs, for a machine which is an EngineGuest and its memory: no KVM, devices or disks.
#ifndef FERRITE_BENCH_ENGINE_PORTS_H_
#define FERRITE_BENCH_ENGINE_PORTS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bench/engine_guest.h"
#include "memory/guest_memory.h"
#include "migration/api/destination_machine.h"
#include "migration/api/source_machine.h"

namespace ferrite {

struct EngineMemory {
  uint64_t bytes = 0;
  MemoryBacking backing = MemoryBacking::kMemfd;
  bool thp = true;  // transparent huge pages, where the backing can have them
};

absl::StatusOr<std::unique_ptr<GuestMemory>> MakeEngineMemory(const EngineMemory& what);

class EngineSourcePort final : public migration::WholeSourceMachine {
 public:
  EngineSourcePort(GuestMemory& memory, EngineGuest& guest) : memory_(memory), guest_(guest) {}

  GuestMemory& memory() override { return memory_; }
  absl::StatusOr<migration::MachineSpec> Describe() override;
  absl::Status StartDirtyTracking() override;
  absl::Status CollectDirty(size_t index, PageBitmap& into) override;
  void StopDirtyTracking() override {}
  void AddUnneededPages(size_t, PageBitmap&) override {}
  void InhibitBalloon() override {}
  void AllowBalloon() override {}
  absl::Status Pause() override;
  absl::Status Resume() override;
  void StayPaused() override {}
  absl::Status SetThrottle(int percent) override {
    guest_.SetThrottle(percent);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<uint8_t>> SaveState() override { return guest_.Save(); }
  absl::Status ReleaseDisks() override { return absl::OkStatus(); }
  absl::Status AcquireDisks() override { return absl::OkStatus(); }
  // Not written to disk: the benchmark has no other life than its processes'.
  absl::Status RecordGrant(const migration::MoveId&, uint64_t, absl::string_view) override { return absl::OkStatus(); }
  void Moved(absl::string_view) override {}

 private:
  GuestMemory& memory_;
  EngineGuest& guest_;
};

// Owns what it builds.
class EngineDestination final : public migration::MachineBuilder {
 public:
  EngineDestination(const EngineMemory& memory, const GuestPlan& plan) : what_(memory), plan_(plan) {}

  absl::StatusOr<std::unique_ptr<migration::DestinationMachine>> Build(const migration::MachineSpec& spec) override;
  void Accepted() override {}
  void Dropped() override {
    guest_.reset();
    memory_.reset();
  }

  // Null before a machine was described.
  EngineGuest* guest() { return guest_.get(); }

 private:
  const EngineMemory what_;
  const GuestPlan plan_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<EngineGuest> guest_;
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_ENGINE_PORTS_H_
