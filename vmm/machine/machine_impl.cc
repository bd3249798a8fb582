#include "vmm/machine/machine_impl.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/pinned_file.h"
#include "base/status.h"
#include "devices/balloon/balloon.h"
#include "memory/bus_fault.h"
#include "vmm/boot/boot_file.h"
#include "vmm/boot/boot_loader.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/platform_state.h"
#include "vmm/kvm/vcpu_state.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/vcpu_setup.h"

namespace ferrite {

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(const MachineConfig& config, Kvm& kvm, EventLoop& loop,
                                                         SerialBackend* console) {
  return MachineImpl::Create(config, kvm, loop, console);
}

namespace {

absl::Status FindBootFile(absl::string_view what, const std::string& path, std::shared_ptr<const BootFile>& file) {
  if (path.empty() || file != nullptr) {
    return absl::OkStatus();
  }
  auto found = PinnedFile::Find(path, PinnedFile::Links::kAll);
  if (!found.ok()) {
    return absl::Status(found.status().code(), absl::StrCat(what, " ", found.status().message()));
  }
  file = std::make_shared<BootFile>(BootFile{.file = *std::move(found), .content = std::nullopt});
  return absl::OkStatus();
}

// Without them where there is no memory for words.
StopInfo WithDetails(StopReason reason, absl::FunctionRef<std::string()> details) {
  StopInfo info{reason, ""};
  IfThereIsMemory([&] { info.details = details(); });
  return info;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> MachineImpl::Create(const MachineConfig& config, Kvm& kvm, EventLoop& loop,
                                                             SerialBackend* console) {
  MachineConfig found = config;
  FERRITE_RETURN_IF_ERROR(FindBootFile("kernel", found.kernel_path, found.kernel));
  FERRITE_RETURN_IF_ERROR(FindBootFile("initrd", found.initrd_path, found.initrd));
  std::unique_ptr<MachineImpl> machine(new MachineImpl(found, kvm));
  FERRITE_RETURN_IF_ERROR(machine->Init(loop, console));
  return machine;
}

absl::Status MachineImpl::Init(EventLoop& loop, SerialBackend* console) {
  FERRITE_RETURN_IF_ERROR(MakeMemory());
  FERRITE_ASSIGN_OR_RETURN(vm_, KvmVm::Create(kvm_, config_.dirty_ring ? DirtyMode::kRing : DirtyMode::kLog,
                                              SlotsOf(*memory_), config_.dirty_ring_entries.value_or(kRingEntries)));
  FERRITE_RETURN_IF_ERROR(MakeVcpus());
  std::vector<KvmVcpu*> vcpus;
  for (const std::unique_ptr<KvmVcpu>& vcpu : vcpus_) {
    vcpus.push_back(vcpu.get());
  }
  dirty_tracker_ = std::make_unique<DirtyTracker>(*vm_, *memory_, std::move(vcpus));
  FERRITE_ASSIGN_OR_RETURN(
      devices_, DeviceSet::Create(config_, *vm_, *memory_, loop, console,
                                  {.power_off = [this] { OnGuestEnd(StopReason::kPowerOff, "by the guest"); },
                                   .reset = [this] { OnGuestEnd(StopReason::kReset, "by the guest"); }}));

  auto power_on = power_on_.initRoot<state::Machine>();
  auto states = power_on.initVcpus(vcpus_.size());
  for (uint32_t i = 0; i < vcpus_.size(); ++i) {
    FERRITE_RETURN_IF_ERROR(SaveVcpu(kvm_, *vcpus_[i], states[i]));
  }
  FERRITE_RETURN_IF_ERROR(SaveIrqchip(*vm_, power_on.initIrqchip()));

  if (Balloon* const balloon = devices_->balloon(); balloon != nullptr) {
    balloon->SetListener(
        [this](uint64_t actual_bytes) { Tell(MachineEvent::Kind::kBalloon, absl::StrCat(actual_bytes)); });
  }
  for (const std::unique_ptr<KvmVcpu>& vcpu : vcpus_) {
    VcpuThread::Listener& listener = *this;
    FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<VcpuThread> thread,
                             VcpuThread::Create(*vcpu, *memory_, devices_->mmio(), devices_->ports(), listener));
    vcpu_threads_.push_back(std::move(thread));
  }
  std::vector<VcpuThread*> threads;
  for (const std::unique_ptr<VcpuThread>& thread : vcpu_threads_) {
    vcpu_thread_ids_.push_back(thread->thread_id());
    threads.push_back(thread.get());
  }
  throttle_ = std::make_unique<VcpuThrottle>(std::move(threads));
  FERRITE_ASSIGN_OR_RETURN(control_thread_, Thread::Start("machine-ctl", [this] { RunControl(); }));
  return ListenForLost(loop);
}

absl::Status MachineImpl::ListenForLost(EventLoop& loop) {
  // That thread is the one that is told: it waits for descriptors only.
  absl::StatusOr<Fd> there = absl::UnknownError("");
  loop.RunAndWait([&there] { there = ListenForLostPages(); });
  FERRITE_ASSIGN_OR_RETURN(lost_pages_there_, std::move(there));
  const auto look = [this] {
    eventfd_t count = 0;
    (void)eventfd_read(lost_pages_there_.get(), &count);
    while (const std::optional<uintptr_t> hint = TakeLostPageHint()) {
      (void)memory_->FindLost(*hint);
    }
  };
  FERRITE_ASSIGN_OR_RETURN(lost_pages_watch_, loop.WatchReadable(lost_pages_there_.get(), look));
  return absl::OkStatus();
}

absl::Status MachineImpl::MakeMemory() {
  FERRITE_ASSIGN_OR_RETURN(memory_, GuestMemory::Create(config_.memory_bytes, config_.memory_backing));
  memory_->SetLostListener([this](GuestAddress page) {
    IfThereIsMemory([&] {
      Log().warn("the host lost the guest's page at 0x{:x}", page.value());
      Tell(MachineEvent::Kind::kLostPage, absl::StrCat("0x", absl::Hex(page.value())));
    });
  });
  const uint32_t bits = PhysicalAddressBits(kvm_.supported_cpuid());
  const std::unique_ptr<MemoryRegion>& last = memory_->regions().back();
  if (bits < 64 && last->end().value() > uint64_t{1} << bits) {
    return absl::InvalidArgumentError(absl::StrCat("guest memory of ", config_.memory_bytes >> 20,
                                                   " MiB needs more than the ", bits,
                                                   " bits of physical address that this host offers"));
  }
  for (const std::unique_ptr<MemoryRegion>& region : memory_->regions()) {
    FERRITE_RETURN_IF_ERROR(region->SetThp(config_.transparent_huge_pages));
    if (config_.lock_memory) {
      FERRITE_RETURN_IF_ERROR(region->Lock());
    }
  }
  return absl::OkStatus();
}

absl::Status MachineImpl::MakeVcpus() {
  for (uint32_t i = 0; i < config_.cpus; ++i) {
    FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<KvmVcpu> vcpu, vm_->CreateVcpu(i));
    FERRITE_RETURN_IF_ERROR(SetUpVcpu(kvm_, *vcpu, config_.cpus));
    vcpus_.push_back(std::move(vcpu));
  }
  return absl::OkStatus();
}

MachineImpl::~MachineImpl() noexcept {
  Stop();
  {
    absl::MutexLock lock(&request_mutex_);
    ending_ = true;
  }
  control_thread_.Join();
}

// ---- Requests of vCPU threads ----

void MachineImpl::OnEnter() {
  int64_t never = 0;
  first_entry_ns_.compare_exchange_strong(never, MonotonicNs() - started_ns_);
}

void MachineImpl::OnGuestEnd(StopReason reason, std::string details) {
  // The others stand still at once, too. The list of threads is fixed as long as one of them is not parked.
  for (const std::unique_ptr<VcpuThread>& thread : vcpu_threads_) {
    thread->RequestPark();
  }
  absl::MutexLock lock(&request_mutex_);
  if (!request_.has_value()) {
    request_ = Request{reason, std::move(details)};
  }
}

void MachineImpl::RunControl() {
  for (;;) {
    {
      absl::MutexLock lock(&request_mutex_);
      const auto called = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return request_.has_value() || ending_; };
      request_mutex_.Await(absl::Condition(&called));
      if (ending_) {
        return;
      }
    }
    absl::MutexLock lock(&operation_mutex_);
    CarryOutRequest();
  }
}

void MachineImpl::CarryOutRequest() {
  std::optional<Request> request;
  {
    absl::MutexLock lock(&request_mutex_);
    request = std::exchange(request_, std::nullopt);
  }
  if (!request.has_value() || state() == MachineState::kStopped) {
    return;
  }
  if (request->reason != StopReason::kReset || !config_.reboot_on_reset) {
    StopLocked({request->reason, std::move(request->details)});
    return;
  }
  if (config_.kernel_path.empty()) {
    StopLocked(WithDetails(StopReason::kReset,
                           [] { return "by the guest; the machine was loaded without a kernel to boot again"; }));
    return;
  }
  // It is not there any more to be told no.
  const absl::Status status = CatchOutOfMemory([this]() ABSL_NO_THREAD_SAFETY_ANALYSIS -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(const auto boot, PrepareBoot());
    return ResetLocked(boot);
  });
  if (!status.ok()) {
    StopLocked(WithDetails(StopReason::kError, [&] { return absl::StrCat("reset by the guest: ", status.message()); }));
  }
}

// ---- State ----

absl::Status MachineImpl::WrongState(absl::string_view operation) {
  std::string why;
  {
    absl::MutexLock lock(&stop_mutex_);
    if (stop_info_.has_value()) {
      why = absl::StrCat(" (", StopReasonName(stop_info_->reason), ")");
    }
  }
  return absl::FailedPreconditionError(
      absl::StrCat("cannot ", operation, ": the machine is ", MachineStateName(state()), why));
}

void MachineImpl::ChangeState(MachineState to) {
  MachineState from = state();
  FERRITE_CHECK(MachineStateMayChange(from, to));
  FERRITE_CHECK(state_.compare_exchange_strong(from, to));
}

void MachineImpl::Tell(MachineEvent::Kind kind, std::string text) {
  if (listener_) {
    // What happened has happened, also where there is no memory for words about it.
    IfThereIsMemory([&] { listener_({kind, std::move(text)}); });
  }
}

// ---- Operations ----

absl::Status MachineImpl::Boot() {
  absl::MutexLock lock(&operation_mutex_);
  if (state() != MachineState::kCreated) {
    return WrongState("boot");
  }
  FERRITE_ASSIGN_OR_RETURN(const PreparedBoot boot, PrepareBoot());
  FERRITE_RETURN_IF_ERROR(LoadKernelAndEnter(boot));
  ChangeState(MachineState::kPaused);
  return absl::OkStatus();
}

absl::StatusOr<PreparedBoot> MachineImpl::PrepareBoot() {
  if (config_.kernel_path.empty()) {
    return absl::FailedPreconditionError("the machine has no kernel to boot");
  }
  return PreparedBoot::Prepare(*memory_, {.kernel = config_.kernel.get(),
                                          .initrd = config_.initrd.get(),
                                          .command_line = config_.command_line,
                                          .platform = devices_->DescribePlatform(config_.cpus)});
}

absl::Status MachineImpl::LoadKernelAndEnter(const PreparedBoot& boot) {
  FERRITE_ASSIGN_OR_RETURN(const BootEntry entry, boot.Load(*memory_));
  return EnterKernel(*vcpus_[0], entry);
}

void MachineImpl::ParkVcpus() {
  // All are asked before the first is waited for: the guest stops everywhere at about the same time.
  for (const std::unique_ptr<VcpuThread>& thread : vcpu_threads_) {
    thread->RequestPark();
  }
  for (const std::unique_ptr<VcpuThread>& thread : vcpu_threads_) {
    thread->WaitUntilParked();
  }
}

void MachineImpl::StartVcpus() {
  for (const std::unique_ptr<KvmVcpu>& vcpu : vcpus_) {
    // The guest runs by now: nothing may keep it from that.
    IfThereIsMemory([&] {
      if (const absl::Status status = vcpu->NotifyPaused(); !status.ok()) {
        Log().warn("the guest's watchdog is not told of the pause: {}", status.ToString());
      }
    });
  }
  for (const std::unique_ptr<VcpuThread>& thread : vcpu_threads_) {
    thread->Run();
  }
}

absl::Status MachineImpl::Resume() {
  absl::MutexLock lock(&operation_mutex_);
  if (state() == MachineState::kRunning) {
    return absl::OkStatus();
  }
  if (state() != MachineState::kPaused) {
    return WrongState("resume");
  }
  if (held_.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat("cannot resume: ", *held_));
  }
  return ResumeLocked();
}

absl::Status MachineImpl::ResumeLocked() {
  FERRITE_RETURN_IF_ERROR(Annotate(devices_->AcquireFiles(), "cannot resume"));
  const absl::Status resumed = CatchOutOfMemory([this] {
    devices_->Resume();
    return absl::OkStatus();
  });
  if (!resumed.ok()) {
    // Some of them may have begun.
    QuiesceDevices();
    return Annotate(resumed, "cannot resume");
  }
  ChangeState(MachineState::kRunning);
  // The guest runs: nothing fails from here on, and nobody may be told otherwise.
  Tell(MachineEvent::Kind::kRunning, "");
  StartVcpus();
  if (std::exchange(arrived_, false)) {
    IfThereIsMemory([this] { devices_->Arrived(); });
  }
  return absl::OkStatus();
}

void MachineImpl::QuiesceDevices() {
  UntilThereIsMemory([this] { devices_->Quiesce(); });
}

absl::Status MachineImpl::Pause() {
  absl::MutexLock lock(&operation_mutex_);
  if (state() == MachineState::kRunning) {
    PauseLocked();
    CarryOutRequest();
  }
  return state() == MachineState::kPaused ? absl::OkStatus() : WrongState("pause");
}

void MachineImpl::PauseLocked() {
  ParkVcpus();
  QuiesceDevices();
  ChangeState(MachineState::kPaused);
  Tell(MachineEvent::Kind::kPaused, "");
}

absl::Status MachineImpl::Reset() {
  absl::MutexLock lock(&operation_mutex_);
  CarryOutRequest();
  if (state() != MachineState::kRunning && state() != MachineState::kPaused) {
    return WrongState("reset");
  }
  if (held_.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat("cannot reset: ", *held_));
  }
  if (config_.kernel_path.empty()) {
    return absl::FailedPreconditionError("cannot reset: the machine was loaded without a kernel to boot again");
  }
  // The guest runs on meanwhile, and afterwards if there is nothing good to boot.
  const auto boot = PrepareBoot();
  FERRITE_RETURN_IF_ERROR(Annotate(boot.ok() ? boot->TryToRead() : boot.status(), "cannot reset"));
  const absl::Status status = CatchOutOfMemory([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return ResetLocked(*boot); });
  if (!status.ok()) {
    StopLocked(WithDetails(StopReason::kError, [&] { return absl::StrCat("reset: ", status.message()); }));
  }
  return status;
}

absl::Status MachineImpl::ResetLocked(const PreparedBoot& boot) {
  const bool was_running = state() == MachineState::kRunning;
  if (was_running) {
    ParkVcpus();
    QuiesceDevices();
  }
  {
    // What the guest asked for before it was reset concerns the next one no more.
    absl::MutexLock lock(&request_mutex_);
    request_.reset();
  }
  devices_->Reset();
  const state::Machine::Reader power_on = power_on_.getRoot<state::Machine>().asReader();
  TscAnchor anchor;
  for (uint32_t i = 0; i < vcpus_.size(); ++i) {
    FERRITE_RETURN_IF_ERROR(LoadVcpu(*vcpus_[i], anchor, power_on.getVcpus()[i]));
  }
  FERRITE_RETURN_IF_ERROR(LoadIrqchip(*vm_, power_on.getIrqchip()));
  // The next kernel gets good pages, and may be loaded to one of them.
  FERRITE_RETURN_IF_ERROR(memory_->DiscardLost());
  FERRITE_RETURN_IF_ERROR(LoadKernelAndEnter(boot));
  Tell(MachineEvent::Kind::kReset, "");
  if (was_running) {
    devices_->Resume();
    StartVcpus();
  }
  return absl::OkStatus();
}

void MachineImpl::Stop() {
  absl::MutexLock lock(&operation_mutex_);
  StopInfo info{StopReason::kRequested, ""};
  {
    // A guest that ended by itself just before did not end because of this call.
    absl::MutexLock request_lock(&request_mutex_);
    if (request_.has_value() && request_->reason != StopReason::kReset) {
      info = {request_->reason, request_->details};
    }
    request_.reset();
  }
  StopLocked(std::move(info));
}

void MachineImpl::StopLocked(StopInfo info) {
  if (state() == MachineState::kStopped) {
    return;
  }
  if (state() == MachineState::kRunning) {
    ParkVcpus();
    QuiesceDevices();
  }
  std::string text;
  IfThereIsMemory(
      [&] { text = absl::StrCat(StopReasonName(info.reason), info.details.empty() ? "" : ": ", info.details); });
  // It may never have come to be.
  throttle_.reset();
  vcpu_threads_.clear();
  ChangeState(MachineState::kStopped);
  {
    absl::MutexLock lock(&stop_mutex_);
    stop_info_ = std::move(info);
  }
  Tell(MachineEvent::Kind::kStopped, text);
}

StopInfo MachineImpl::WaitUntilStopped() {
  absl::MutexLock lock(&stop_mutex_);
  const auto stopped = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stop_info_.has_value(); };
  stop_mutex_.Await(absl::Condition(&stopped));
  return *stop_info_;
}

// ---- Saved state ----

// The second one has lost pages, which no reader may miss. Without any an older ferrite reads it.
uint32_t MachineImpl::StateVersion() const { return memory_->LostPages().empty() ? 1 : kMachineStateVersion; }

absl::Status MachineImpl::Save(state::Machine::Builder out) {
  absl::MutexLock lock(&operation_mutex_);
  if (state() != MachineState::kPaused) {
    return WrongState("save");
  }
  return SaveLocked(out);
}

absl::Status MachineImpl::SaveLocked(state::Machine::Builder out) {
  const std::vector<GuestAddress> lost = memory_->LostPages();
  out.setVersion(StateVersion());
  auto lost_pages = out.initLostPages(lost.size());
  for (uint32_t i = 0; i < lost.size(); ++i) {
    lost_pages.set(i, lost[i].value());
  }
  auto states = out.initVcpus(vcpus_.size());
  for (uint32_t i = 0; i < vcpus_.size(); ++i) {
    FERRITE_RETURN_IF_ERROR(SaveVcpu(kvm_, *vcpus_[i], states[i]));
  }
  FERRITE_RETURN_IF_ERROR(SaveIrqchip(*vm_, out.initIrqchip()));
  FERRITE_RETURN_IF_ERROR(SaveClock(*vm_, out.initClock()));
  devices_->Save(out.initDevices(devices_->size()));
  return absl::OkStatus();
}

absl::Status MachineImpl::CheckState(state::Machine::Reader in) const {
  absl::MutexLock lock(&operation_mutex_);
  return CheckStateLocked(in);
}

absl::Status MachineImpl::CheckStateLocked(state::Machine::Reader in) const {
  if (in.getVersion() == 0 || in.getVersion() > kMachineStateVersion) {
    return absl::UnimplementedError(absl::StrCat("the machine's state has version ", in.getVersion(),
                                                 ", this ferrite reads 1 to ", kMachineStateVersion));
  }
  for (const uint64_t page : in.getLostPages()) {
    if (page % kPageBytes != 0 || memory_->Find(GuestAddress(page)) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("the lost page at 0x", absl::Hex(page), " is none of RAM's"));
    }
  }
  if (in.getVcpus().size() != vcpus_.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the state has ", in.getVcpus().size(), " vCPUs, this machine has ", vcpus_.size()));
  }
  for (uint32_t i = 0; i < vcpus_.size(); ++i) {
    FERRITE_RETURN_IF_ERROR(CheckVcpu(kvm_, *vcpus_[i], CpuidOnThisHost(kvm_, i, config_.cpus), in.getVcpus()[i]));
  }
  FERRITE_RETURN_IF_ERROR(CheckIrqchip(in.getIrqchip()));
  FERRITE_RETURN_IF_ERROR(CheckClock(in.getClock()));
  return devices_->CheckState(in.getDevices());
}

absl::Status MachineImpl::LoadState(state::Machine::Reader in) {
  absl::MutexLock lock(&operation_mutex_);
  if (state() != MachineState::kCreated && state() != MachineState::kPaused) {
    return WrongState("load a state");
  }
  FERRITE_RETURN_IF_ERROR(CheckStateLocked(in));
  if (const absl::Status status = CatchOutOfMemory([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return Apply(in); });
      !status.ok()) {
    StopLocked(WithDetails(StopReason::kError, [&] { return absl::StrCat("load of the state: ", status.message()); }));
    return status;
  }
  if (state() == MachineState::kCreated) {
    ChangeState(MachineState::kPaused);
  }
  return absl::OkStatus();
}

// The order is that of the contracts in vmm/kvm: clock, vCPUs, irqchip; then the devices, which write no guest memory
// and trigger no interrupt before they are resumed.
absl::Status MachineImpl::Apply(state::Machine::Reader in) {
  // Which pages are lost here says whoever brings the memory: one that is lost in the state may have left before it
  // was.
  FERRITE_RETURN_IF_ERROR(LoadClock(*vm_, in.getClock()));
  TscAnchor anchor;
  for (uint32_t i = 0; i < vcpus_.size(); ++i) {
    FERRITE_RETURN_IF_ERROR(LoadVcpu(*vcpus_[i], anchor, in.getVcpus()[i]));
  }
  FERRITE_RETURN_IF_ERROR(LoadIrqchip(*vm_, in.getIrqchip()));
  devices_->LoadState(in.getDevices());
  return absl::OkStatus();
}

}  // namespace ferrite
