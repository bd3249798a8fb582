// What Machine does for a move.
#include <capnp/message.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "devices/balloon/balloon.h"
#include "vmm/machine/described_cpuid.h"
#include "vmm/machine/machine_impl.h"

namespace ferrite {
namespace {

std::string Text(absl::string_view text) { return std::string(text); }

}  // namespace

absl::Status MachineImpl::Describe(state::MachineDescription::Builder out) {
  absl::MutexLock lock(&operation_mutex_);
  if (state() == MachineState::kStopped) {
    return WrongState("describe the machine");
  }
  out.setCpus(config_.cpus);
  out.setStateVersion(StateVersion());
  out.setRebootOnReset(config_.reboot_on_reset);
  auto memory = out.initMemory();
  memory.setBytes(config_.memory_bytes);
  memory.setBacking(Text(MemoryBackingName(config_.memory_backing)));
  memory.setTransparentHugePages(config_.transparent_huge_pages);
  devices_->Describe(out);
  DescribeCpuid(vcpus_[0]->cpuid(), out);
  out.setTscKhz(vcpus_[0]->tsc_khz());
  auto boot = out.initBoot();
  boot.setKernelPath(config_.kernel_path);
  boot.setInitrdPath(config_.initrd_path);
  boot.setCommandLine(config_.command_line);
  return absl::OkStatus();
}

absl::StatusOr<bool> MachineImpl::Hold(std::string why) {
  absl::MutexLock lock(&operation_mutex_);
  if (state() == MachineState::kStopped) {
    return WrongState("hold the machine");
  }
  if (held_.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat("cannot hold the machine twice: ", *held_));
  }
  const bool ran = state() == MachineState::kRunning;
  if (ran) {
    PauseLocked();
    CarryOutRequest();
    if (state() != MachineState::kPaused) {
      return WrongState("hold the machine");
    }
  }
  held_ = std::move(why);
  return ran;
}

absl::Status MachineImpl::Arrive(bool run) {
  absl::MutexLock lock(&operation_mutex_);
  if (state() != MachineState::kPaused) {
    return WrongState("arrive");
  }
  arrived_ = true;
  if (run) {
    // Held until it runs: a guest that cannot goes back to its source, and nobody may resume it here (R2).
    FERRITE_RETURN_IF_ERROR(ResumeLocked());
  }
  held_.reset();
  return absl::OkStatus();
}

void MachineImpl::EndHold() {
  absl::MutexLock lock(&operation_mutex_);
  held_.reset();
}

void MachineImpl::Leave(std::string where) {
  absl::MutexLock lock(&operation_mutex_);
  {
    absl::MutexLock request_lock(&request_mutex_);
    request_.reset();
  }
  StopLocked({StopReason::kMoved, std::move(where)});
}

absl::Status MachineImpl::ReleaseDisks(std::span<const std::string> kept) {
  absl::MutexLock lock(&operation_mutex_);
  if (state() == MachineState::kRunning) {
    return WrongState("release the disks");
  }
  return devices_->ReleaseFiles(kept);
}

absl::Status MachineImpl::AcquireDisks() {
  absl::MutexLock lock(&operation_mutex_);
  if (state() == MachineState::kStopped) {
    return WrongState("acquire the disks");
  }
  return devices_->AcquireFiles();
}

absl::Status MachineImpl::SetThrottle(int percent) {
  absl::MutexLock lock(&operation_mutex_);
  return throttle_ != nullptr ? throttle_->Set(percent) : absl::OkStatus();
}

absl::StatusOr<absl::Duration> MachineImpl::MeasureLoad() {
  absl::MutexLock lock(&operation_mutex_);
  if (state() != MachineState::kCreated) {
    return WrongState("try the load of a state");
  }
  capnp::MallocMessageBuilder message;
  FERRITE_RETURN_IF_ERROR(SaveLocked(message.initRoot<state::Machine>()));
  const MonotonicTime start = MonotonicTime::Now();
  const state::Machine::Reader state = message.getRoot<state::Machine>().asReader();
  FERRITE_RETURN_IF_ERROR(CheckStateLocked(state));
  FERRITE_RETURN_IF_ERROR(Apply(state));
  return MonotonicTime::Now() - start;
}

std::optional<uint32_t> MachineImpl::VcpuOfThread(pid_t thread) const {
  const auto found = std::find(vcpu_thread_ids_.begin(), vcpu_thread_ids_.end(), thread);
  if (found == vcpu_thread_ids_.end()) {
    return std::nullopt;
  }
  return static_cast<uint32_t>(found - vcpu_thread_ids_.begin());
}

absl::Duration MachineImpl::EntryWait() const {
  absl::MutexLock lock(&operation_mutex_);
  absl::Duration longest;
  for (const std::unique_ptr<VcpuThread>& thread : vcpu_threads_) {
    longest = std::max(longest, thread->EntryWait());
  }
  return longest;
}

BalloonInhibitor::Token MachineImpl::InhibitBalloon(std::string why) {
  Balloon* const balloon = devices_->balloon();
  return balloon != nullptr ? balloon->inhibitor().Inhibit(std::move(why)) : BalloonInhibitor::Token();
}

void MachineImpl::AddUnneededPages(size_t index, PageBitmap& into) {
  if (devices_->balloon() == nullptr) {
    return;
  }
  const MemoryRegion& region = *memory_->regions()[index];
  for (const BalloonPages::Range& range : devices_->balloon()->InflatedRanges()) {
    const GuestAddress first = std::max(range.start, region.base());
    const GuestAddress end = std::min(range.start + range.bytes, region.end());
    if (first < end) {
      into.SetRange((first - region.base()) / kPageBytes, (end - first) / kPageBytes);
    }
  }
}

}  // namespace ferrite
