#include "vmm/machine/vcpu_thread.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "vmm/kvm/memory_error.h"
#include "vmm/machine/exit_report.h"
#include "vmm/machine/touched_pages.h"

namespace ferrite {
namespace {

// KVM_RUN may say for so long that it is to be called again, each time at once.
constexpr absl::Duration kAgainLimit = absl::Seconds(1);
constexpr absl::Duration kAtOnce = absl::Milliseconds(10);
constexpr int kAgainPauseMs = 1;

// A guest that is told of a lost page and touches it again at once, so often, does so for ever. One that has handled it
// has no mapping of the page any more.
constexpr int kLostTouchLimit = 100;
constexpr absl::Duration kLostTouchGap = absl::Seconds(1);

int KickSignal() { return SIGRTMIN; }

void InstallKickHandler() {
  static const bool kInstalled = [] {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    // No SA_RESTART: the signal is there to interrupt KVM_RUN.
    FERRITE_CHECK(sigaction(KickSignal(), &action, nullptr) == 0);
    return true;
  }();
  (void)kInstalled;
}

void UnblockKick() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, KickSignal());
  FERRITE_CHECK(pthread_sigmask(SIG_UNBLOCK, &set, nullptr) == 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<VcpuThread>> VcpuThread::Create(KvmVcpu& vcpu, GuestMemory& memory, Bus& mmio,
                                                               Bus& ports, Listener& listener) {
  InstallKickHandler();
  CatchBusFaults();
  std::unique_ptr<VcpuThread> made(new VcpuThread(vcpu, memory, mmio, ports, listener));
  FERRITE_ASSIGN_OR_RETURN(made->thread_,
                           Thread::Start(absl::StrCat("vcpu-", vcpu.index()), [made = made.get()] { made->Loop(); }));
  return made;
}

VcpuThread::~VcpuThread() {
  {
    absl::MutexLock lock(&mutex_);
    want_ = Want::kEnd;
    KickLocked();
  }
  thread_.Join();
}

void VcpuThread::Run() {
  absl::MutexLock lock(&mutex_);
  if (want_ != Want::kRun) {
    told_ = MonotonicTime::Now();
  }
  want_ = Want::kRun;
}

absl::Duration VcpuThread::EntryWait() {
  absl::MutexLock lock(&mutex_);
  return want_ == Want::kRun && parked_ ? MonotonicTime::Now() - told_ : entry_wait_;
}

void VcpuThread::RequestPark() {
  absl::MutexLock lock(&mutex_);
  if (want_ == Want::kRun) {
    want_ = Want::kPark;
    KickLocked();
  }
}

void VcpuThread::WaitUntilParked() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&parked_));
}

// A kick is never lost: the flag is set before the signal, so a signal that comes too early for KVM_RUN leaves the flag
// behind, and one that comes later interrupts it. The flag stays until the vCPU is to run again.
void VcpuThread::KickLocked() {
  vcpu_.RequestExit(true);
  if (!parked_) {
    pthread_kill(thread_.handle(), KickSignal());
  }
}

void VcpuThread::SetBarred(bool on) {
  absl::MutexLock lock(&mutex_);
  barred_ = on;
  if (on && want_ == Want::kRun) {
    KickLocked();
  }
}

pid_t VcpuThread::thread_id() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](pid_t* id) { return *id != 0; }, &thread_id_));
  return thread_id_;
}

void VcpuThread::Loop() {
  UnblockKick();
  {
    absl::MutexLock lock(&mutex_);
    thread_id_ = gettid();
  }
  const RunDelay delay(gettid());
  while (WaitForRun(delay)) {
    listener_.OnEnter();
    RunGuest();
  }
}

bool VcpuThread::WaitForRun(const RunDelay& delay) {
  const absl::Duration before = delay.Read();
  absl::MutexLock lock(&mutex_);
  parked_ = true;
  mutex_.Await(absl::Condition(
      +[](Want* want) { return *want != Want::kPark; }, &want_));
  if (want_ == Want::kEnd) {
    return false;
  }
  parked_ = false;
  entry_wait_ = delay.Read() - before;
  vcpu_.RequestExit(false);
  return true;
}

bool VcpuThread::ShouldPark() {
  absl::MutexLock lock(&mutex_);
  const auto may_go_on = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return want_ != Want::kRun || !barred_; };
  mutex_.Await(absl::Condition(&may_go_on));
  if (want_ != Want::kRun) {
    return true;
  }
  // Told to park and to run again before it could park.
  vcpu_.RequestExit(false);
  return false;
}

// KVM wakes who waits for its INIT also for what does not start it, as an NMI is, and as long as that is pending.
bool VcpuThread::WaitsForInit() const {
  const absl::StatusOr<kvm_mp_state> state = vcpu_.GetMpState();
  return state.ok() && state->mp_state == KVM_MP_STATE_UNINITIALIZED;
}

// Parks only where no exit is open, as it must be before the vCPU's state is read. EINTR: KVM_RUN has completed the one
// before; a device access that takes several exits comes back with the next one until it is done. EAGAIN: it comes
// before the guest is entered at all, from a vCPU that waits for its INIT or a VM that never ran, and neither has one.
void VcpuThread::RunGuest() {
  MonotonicTime first_again;
  MonotonicTime last_again = MonotonicTime::InfinitePast();
  for (;;) {
    const int error = [&] {
      const GuestRunFaults faults;
      return vcpu_.Run();
    }();
    if (const std::optional<uintptr_t> lost = GuestRunFaults::Take(); lost.has_value()) {
      bool goes_on = true;
      IfThereIsMemory([&] { goes_on = HandleLost(*lost); });
      if (!goes_on) {
        return;
      }
    }
    if (error == 0) {
      if (!HandleExit()) {
        return;
      }
      continue;
    }
    if (error == EFAULT) {
      // Without memory for it the guest is told when it touches the page again, which it does at once.
      std::optional<bool> handled = true;
      IfThereIsMemory([&] { handled = HandleHidden(); });
      if (handled.has_value()) {
        if (!*handled) {
          return;
        }
        continue;
      }
    }
    if (error != EINTR && error != EAGAIN) {
      End(StopReason::kError, [&] { return DescribeRunError(error, vcpu_.run()); });
      return;
    }
    if (ShouldPark()) {
      return;
    }
    if (error == EAGAIN) {
      const MonotonicTime now = MonotonicTime::Now();
      if (now - last_again > kAtOnce) {
        first_again = now;
      } else if (now - first_again > kAgainLimit && !WaitsForInit()) {
        End(StopReason::kError, [&] { return DescribeRunError(error, vcpu_.run()); });
        return;
      } else {
        // A kick ends it.
        (void)poll(nullptr, 0, kAgainPauseMs);
      }
      last_again = MonotonicTime::Now();
    }
  }
}

bool VcpuThread::HandleExit() {
  const kvm_run& run = vcpu_.run();
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      HandlePortIo();
      return true;
    case KVM_EXIT_MMIO:
      return HandleMmio();
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return true;
    case KVM_EXIT_DIRTY_RING_FULL:
      if (const absl::Status status = listener_.OnDirtyRingFull(); !status.ok()) {
        End(StopReason::kError, [&] { return std::string(status.message()); });
        return false;
      }
      return true;
    case KVM_EXIT_SYSTEM_EVENT:
      if (run.system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN) {
        End(StopReason::kPowerOff, [&] { return DescribeExit(run); });
      } else if (run.system_event.type == KVM_SYSTEM_EVENT_RESET) {
        End(StopReason::kReset, [&] { return DescribeExit(run); });
      } else {
        End(StopReason::kGuestFault, [&] { return DescribeExit(run); });
      }
      return false;
    default:
      End(StopReason::kGuestFault, [&] { return DescribeExit(run); });
      return false;
  }
}

void VcpuThread::HandlePortIo() {
  kvm_run& run = vcpu_.run();
  uint8_t* data = reinterpret_cast<uint8_t*>(&run) + run.io.data_offset;
  // A string instruction brings several values at once, all for the same port.
  for (uint32_t i = 0; i < run.io.count; ++i, data += run.io.size) {
    if (run.io.direction == KVM_EXIT_IO_IN) {
      ports_.Read(run.io.port, {data, run.io.size});
    } else {
      ports_.Write(run.io.port, {data, run.io.size});
    }
  }
}

bool VcpuThread::HandleMmio() {
  kvm_run& run = vcpu_.run();
  const std::span<uint8_t> data(run.mmio.data, run.mmio.len);
  if (const GuestAddress address(run.mmio.phys_addr); memory_.Find(address) != nullptr) {
    // RAM that KVM's emulator could not get at. If we can, the guest has what is there. If the page is lost, the
    // instruction is half done: no machine check takes that back, and there are no bytes to go on with.
    const absl::Status status = run.mmio.is_write != 0 ? memory_.Write(address, data) : memory_.Read(address, data);
    if (!status.ok()) {
      End(StopReason::kGuestFault, [&] {
        return absl::StrCat(status.message(), "; KVM was emulating an instruction that ",
                            run.mmio.is_write != 0 ? "writes" : "reads", " it");
      });
    }
    return status.ok();
  }
  if (run.mmio.is_write != 0) {
    mmio_.Write(run.mmio.phys_addr, data);
  } else {
    mmio_.Read(run.mmio.phys_addr, data);
  }
  return true;
}

bool VcpuThread::HandleLost(uintptr_t host) {
  const std::optional<GuestAddress> page = memory_.FindLost(host);
  if (!page.has_value()) {
    End(StopReason::kError, [&] {
      return absl::StrCat("KVM_RUN touched 0x", absl::Hex(host), " of ours, which the host has no page for");
    });
    return false;
  }
  // The guest's page, not the huge one of the host's: who is told of another one touches the same again.
  const uint64_t inside = host % memory_.Find(*page)->host_page_bytes() / kPageBytes * kPageBytes;
  return TellOfLost(*page + inside);
}

// A lost page that the kernel cannot mark is hidden (MemoryRegion::HideLost()): KVM_RUN ends with EFAULT. Kernels
// before Linux 6.8 do not say where. Then it is one that a register points at, or, where none does or the guest was
// told of that one and went on to touch it, one after the other of the guest's pages that are lost, whoever touched
// which.
std::optional<bool> VcpuThread::HandleHidden() {
  const auto is_lost = [this](GuestAddress address) {
    const MemoryRegion* const region = memory_.Find(address);
    return region != nullptr && region->IsLost(address - region->base());
  };
  if (const kvm_run& run = vcpu_.run(); run.exit_reason == KVM_EXIT_MEMORY_FAULT) {
    const GuestAddress page(MemoryFaultOf(run).gpa / kPageBytes * kPageBytes);
    return is_lost(page) ? std::optional(TellOfLost(page)) : std::nullopt;
  }
  const std::vector<GuestAddress> lost = memory_.HiddenPages();
  if (lost.empty()) {
    return std::nullopt;
  }
  // All of a machine's memory is of one kind.
  const uint64_t pages = memory_.Find(lost.front())->host_page_bytes() / kPageBytes;
  const bool often = hidden_touches_.Count() > kLostTouchLimit + static_cast<int64_t>(lost.size() * pages);
  const absl::StatusOr<kvm_regs> regs = vcpu_.GetRegs();
  const absl::StatusOr<kvm_sregs> sregs = vcpu_.GetSregs();
  if (regs.ok() && sregs.ok()) {
    for (const GuestAddress page : TouchedPages(memory_, *regs, *sregs)) {
      if (is_lost(page) && !WasToldJustNow(page)) {
        return TellOfLost(page, often);
      }
    }
  }
  const uint64_t turn = hidden_turn_++ % (lost.size() * pages);
  return TellOfLost(lost[turn / pages] + turn % pages * kPageBytes, often);
}

int VcpuThread::LostTouches::Count() {
  const MonotonicTime now = MonotonicTime::Now();
  count = now - last < kLostTouchGap ? count + 1 : 1;
  last = now;
  return count;
}

bool VcpuThread::WasToldJustNow(GuestAddress page) const {
  const auto touches = lost_touches_.find(page);
  return touches != lost_touches_.end() && MonotonicTime::Now() - touches->second.last < kLostTouchGap;
}

bool VcpuThread::TellOfLost(GuestAddress page, bool often) {
  often = lost_touches_[page].Count() > kLostTouchLimit || often;
  absl::Status told = TellOfMemoryError(vcpu_, page);
  if (told.ok() && often) {
    told = absl::FailedPreconditionError(
        absl::StrCat("it was told so ", kLostTouchLimit, " times, and touches it again and again"));
  }
  if (!told.ok()) {
    End(StopReason::kGuestFault, [&] {
      return absl::StrCat("the host lost the guest's page at 0x", absl::Hex(page.value()), ": ", told.message());
    });
  }
  return told.ok();
}

void VcpuThread::End(StopReason reason, absl::FunctionRef<std::string()> what) {
  RequestPark();
  // The guest may want no more than to be reset: that goes without words.
  std::string words;
  IfThereIsMemory([&] { words = absl::StrCat("vCPU ", vcpu_.index(), ": ", what(), "\n", DescribeRegisters(vcpu_)); });
  listener_.OnGuestEnd(reason, std::move(words));
}

}  // namespace ferrite
