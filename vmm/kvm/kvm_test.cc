// The wrappers on real KVM.
#include "vmm/kvm/kvm.h"

#include <capnp/message.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/mapping.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/memory_error.h"
#include "vmm/kvm/msr_names.h"
#include "vmm/kvm/platform_state.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vcpu_state.h"
#include "vmm/kvm/vm.h"

namespace ferrite {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

TEST(KvmOpenTest, MissingDeviceSaysHowToGetIt) {
  const absl::Status status = Kvm::Open("/no/such/kvm").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/no/such/kvm"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("modprobe kvm"));
}

TEST(KvmOpenTest, AnotherDeviceIsNotTakenForKvm) {
  const absl::Status status = Kvm::Open("/dev/null").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/null is not KVM's device"));
}

TEST(KvmOpenTest, NoPermissionNamesTheGroup) {
  if (geteuid() == 0) {
    // Root may open everything but a directory for writing: the other branch of the same error.
    EXPECT_FALSE(Kvm::Open("/dev").ok());
    GTEST_SKIP() << "root has every permission";
  }
  const std::string path = testing::TempDir() + "/kvm";
  ASSERT_GE(Fd(open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0)).get(), 0);
  const absl::Status status = Kvm::Open(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("group"));
}

// A VM with a page of memory at 0x1000, in which 16-bit code runs.
class KvmVmTest : public testing::Test {
 protected:
  static constexpr GuestAddress kBase{0x1000};
  static constexpr size_t kBytes = 16 * kPageBytes;

  void SetUp() override { MakeVm(DirtyMode::kLog); }

  void MakeVm(DirtyMode mode) {
    vcpu_.reset();
    vm_.reset();
    absl::StatusOr<std::unique_ptr<Kvm>> kvm = Kvm::Open();
    ASSERT_TRUE(kvm.ok()) << kvm.status();
    kvm_ = *std::move(kvm);
    absl::StatusOr<std::unique_ptr<KvmVm>> vm = KvmVm::Create(*kvm_, mode);
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    absl::StatusOr<Mapping> memory = Mapping::Create("memory", kBytes, MAP_SHARED | MAP_ANONYMOUS);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    ASSERT_TRUE(vm_->SetSlot({.slot = 0, .base = kBase, .host = memory_.span()}).ok());
    absl::StatusOr<std::unique_ptr<KvmVcpu>> vcpu = vm_->CreateVcpu(0);
    ASSERT_TRUE(vcpu.ok()) << vcpu.status();
    vcpu_ = *std::move(vcpu);
    host_cpuid_ = GuestCpuid(kvm_->supported_cpuid(), {});
    ASSERT_TRUE(vcpu_->SetCpuid(host_cpuid_).ok());
  }

  void Load(const std::vector<uint8_t>& code) {
    memcpy(memory_.data(), code.data(), code.size());
    kvm_sregs sregs = *vcpu_->GetSregs();
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    ASSERT_TRUE(vcpu_->SetSregs(sregs).ok());
    ASSERT_TRUE(vcpu_->SetRegs({.rip = kBase.value(), .rflags = 2}).ok());
  }

  // Runs to the next exit that is none of KVM's own business.
  int RunOn() {
    int error;
    do {
      error = vcpu_->Run();
    } while (error == EAGAIN);
    return error;
  }

  std::unique_ptr<Kvm> kvm_;
  std::unique_ptr<KvmVm> vm_;
  Mapping memory_;
  std::unique_ptr<KvmVcpu> vcpu_;
  std::vector<kvm_cpuid_entry2> host_cpuid_;
};

TEST_F(KvmVmTest, HostIsComplete) {
  EXPECT_TRUE(kvm_->capabilities().CheckRequired().ok());
  EXPECT_THAT(kvm_->msr_indices(), Contains(kMsrTsc));
  EXPECT_FALSE(kvm_->supported_cpuid().empty());
}

TEST_F(KvmVmTest, PortAccessExitsAndIsCompletedByTheNextRun) {
  Load({0xe4, 0x84,    // in al, 0x84
        0xe6, 0x85});  // out 0x85, al
  ASSERT_EQ(RunOn(), 0);
  kvm_run& run = vcpu_->run();
  ASSERT_EQ(run.exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  EXPECT_EQ(run.io.port, 0x84);
  *(reinterpret_cast<uint8_t*>(&run) + run.io.data_offset) = 0x5a;
  // The value is not in the register before the exit is completed.
  vcpu_->RequestExit(true);
  ASSERT_EQ(RunOn(), EINTR);
  EXPECT_EQ(vcpu_->GetRegs()->rax & 0xff, 0x5au);
  EXPECT_EQ(vcpu_->GetRegs()->rip, kBase.value() + 2);
  ASSERT_EQ(RunOn(), EINTR) << "the request stays";
  vcpu_->RequestExit(false);
  ASSERT_EQ(RunOn(), 0);
  EXPECT_EQ(run.io.port, 0x85);
  EXPECT_EQ(run.io.direction, KVM_EXIT_IO_OUT);
}

TEST_F(KvmVmTest, DirtyLogShowsThePageThatWasWritten) {
  Load({0xc6, 0x06, 0x00, 0x50, 0x07,  // mov byte [0x5000], 7
        0xe6, 0x85});                  // out 0x85, al
  ASSERT_TRUE(vm_->SetSlot({.slot = 0, .base = kBase, .host = memory_.span(), .log_dirty = true}).ok());
  uint64_t words[1] = {};
  ASSERT_TRUE(vm_->GetDirtyLog(0, words).ok());
  if (vm_->starts_all_dirty()) {
    EXPECT_EQ(words[0], 0xffffu);
  }
  if (vm_->manual_protect()) {
    ASSERT_TRUE(vm_->ClearDirtyLog(0, 0, 16, words).ok());
  }
  ASSERT_EQ(RunOn(), 0);
  ASSERT_TRUE(vm_->GetDirtyLog(0, words).ok());
  // With nested paging KVM maps a page that was only read (here the code's) as one that may be written, and logs it.
  constexpr uint64_t kCode = 1;
  EXPECT_EQ(words[0] & ~kCode, 1u << 4) << "0x5000 is page 4 of the slot";
  if (vm_->manual_protect()) {
    const uint64_t before = words[0];
    ASSERT_TRUE(vm_->GetDirtyLog(0, words).ok());
    EXPECT_EQ(words[0], before) << "not cleared yet";
    ASSERT_TRUE(vm_->ClearDirtyLog(0, 0, 16, words).ok());
  }
  ASSERT_TRUE(vm_->GetDirtyLog(0, words).ok());
  EXPECT_EQ(words[0], 0u);
}

TEST_F(KvmVmTest, DirtyRingShowsThePageThatWasWritten) {
  if (!kvm_->capabilities().has(KVM_CAP_DIRTY_LOG_RING_ACQ_REL)) {
    EXPECT_EQ(KvmVm::Create(*kvm_, DirtyMode::kRing).status().code(), absl::StatusCode::kUnimplemented);
    GTEST_SKIP() << "this host's KVM has no dirty ring";
  }
  EXPECT_EQ(vcpu_->dirty_ring(), nullptr);
  MakeVm(DirtyMode::kRing);
  ASSERT_NE(vcpu_->dirty_ring(), nullptr);
  Load({0xc6, 0x06, 0x00, 0x50, 0x07,  // mov byte [0x5000], 7
        0xe6, 0x85,                    // out 0x85, al
        0xeb, 0xf7});                  // again
  ASSERT_TRUE(vm_->SetSlot({.slot = 0, .base = kBase, .host = memory_.span(), .log_dirty = true}).ok());
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(RunOn(), 0);
    std::vector<uint64_t> pages;
    vcpu_->dirty_ring()->Reap([&](uint32_t slot, uint64_t page) {
      EXPECT_EQ(slot, 0u);
      pages.push_back(page);
    });
    EXPECT_THAT(pages, Contains(4u));
    const absl::StatusOr<uint32_t> reset = vm_->ResetDirtyRings();
    ASSERT_TRUE(reset.ok());
    EXPECT_EQ(*reset, pages.size());
    EXPECT_EQ(vcpu_->dirty_ring()->Reap([](uint32_t, uint64_t) {}), 0u);
  }
}

TEST_F(KvmVmTest, DoorbellSignalsWithoutAnExit) {
  absl::StatusOr<EventFd> event = EventFd::Create();
  ASSERT_TRUE(event.ok());
  ASSERT_TRUE(vm_->AddIoEventFd(event->fd(), GuestAddress(0x2'0000), 1, 7).ok());
  Load({0xb8, 0x00, 0x20, 0x8e, 0xd8,  // ds = 0x2000
        0xc6, 0x06, 0x00, 0x00, 0x07,  // mov byte [ds:0], 7
        0xc6, 0x06, 0x00, 0x00, 0x08,  // mov byte [ds:0], 8
        0xe6, 0x85});
  ASSERT_EQ(RunOn(), 0);
  EXPECT_EQ(vcpu_->run().exit_reason, static_cast<uint32_t>(KVM_EXIT_MMIO)) << "another value than the doorbell's";
  EXPECT_EQ(vcpu_->run().mmio.data[0], 8);
  EXPECT_EQ(event->Drain(), 1u);
}

TEST_F(KvmVmTest, InterruptLineTakesOneEventFd) {
  absl::StatusOr<EventFd> event = EventFd::Create();
  ASSERT_TRUE(event.ok());
  EXPECT_EQ(vm_->AddIrqFd(event->fd(), 5).ToString(), "OK");
  EXPECT_THAT(std::string(vm_->AddIrqFd(event->fd(), 5).message()), HasSubstr("interrupt 5"));
  EXPECT_FALSE(vm_->AddIrqFd(event->fd(), 1'000'000).ok());
}

TEST_F(KvmVmTest, RegistersThatTheKernelDoesNotKnowAreSkipped) {
  const uint32_t indices[] = {0x4000'0fff, kMsrTsc, 0x4000'0ffe, 0x277, 0x4000'0ffd};
  const absl::StatusOr<std::vector<kvm_msr_entry>> read = vcpu_->GetMsrs(indices);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), 2u);
  EXPECT_EQ((*read)[0].index, kMsrTsc);
  EXPECT_EQ((*read)[1].index, 0x277u);

  const uint64_t pat = 0x0007'0406'0007'0401;
  const kvm_msr_entry entries[] = {
      {.index = 0x4000'0fff, .data = 1}, {.index = 0x277, .data = pat}, {.index = 0x4000'0ffe, .data = 2}};
  const absl::StatusOr<std::vector<kvm_msr_entry>> refused = vcpu_->SetMsrs(entries);
  ASSERT_TRUE(refused.ok()) << refused.status();
  ASSERT_EQ(refused->size(), 2u);
  EXPECT_EQ((*refused)[0].index, 0x4000'0fffu);
  EXPECT_EQ((*refused)[1].index, 0x4000'0ffeu);
  EXPECT_EQ((*vcpu_->GetMsrs({&indices[3], 1}))[0].data, pat);
}

TEST_F(KvmVmTest, PauseIsNoErrorWithoutAKvmClock) { EXPECT_EQ(vcpu_->NotifyPaused().ToString(), "OK"); }

// ---- State ----

class VcpuStateTest : public KvmVmTest {
 protected:
  void SetUp() override {
    KvmVmTest::SetUp();
    ASSERT_EQ(SaveVcpu(*kvm_, *vcpu_, message_->initRoot<state::Vcpu>()).ToString(), "OK");
  }
  state::Vcpu::Builder saved() { return message_->getRoot<state::Vcpu>(); }
  std::string Check() { return std::string(CheckVcpu(*kvm_, *vcpu_, host_cpuid_, saved().asReader()).message()); }

  const std::unique_ptr<capnp::MallocMessageBuilder> message_ = std::make_unique<capnp::MallocMessageBuilder>();
};

TEST_F(VcpuStateTest, EverythingComesBack) {
  kvm_regs regs = *vcpu_->GetRegs();
  regs.rax = 0x1122334455667788;
  regs.r15 = 0x99;
  regs.rip = 0x1234;
  ASSERT_TRUE(vcpu_->SetRegs(regs).ok());
  kvm_sregs sregs = *vcpu_->GetSregs();
  sregs.cs.base = 0x4'0000;
  sregs.cs.selector = 0x4000;
  ASSERT_TRUE(vcpu_->SetSregs(sregs).ok());
  std::vector<uint8_t> xsave = *vcpu_->GetXsave();
  xsave[160] = 0x77;  // xmm0
  xsave[512] |= 2;    // SSE is in use
  ASSERT_TRUE(vcpu_->SetXsave(xsave).ok());
  kvm_debugregs debug = *vcpu_->GetDebugRegs();
  debug.db[1] = 0xabc;
  ASSERT_TRUE(vcpu_->SetDebugRegs(debug).ok());
  kvm_lapic_state lapic = *vcpu_->GetLapic();
  lapic.regs[0xf0] = 0xfe;  // spurious vector
  lapic.regs[0xf1] = 0x01;  // software enable
  ASSERT_TRUE(vcpu_->SetLapic(lapic).ok());
  const kvm_msr_entry pat = {.index = 0x277, .data = 0x0007040600070401};
  ASSERT_TRUE(vcpu_->SetMsrs({&pat, 1}).ok());
  capnp::MallocMessageBuilder changed;
  ASSERT_TRUE(SaveVcpu(*kvm_, *vcpu_, changed.initRoot<state::Vcpu>()).ok());

  // Back to the state before, and again to the changed one.
  TscAnchor anchor;
  ASSERT_EQ(LoadVcpu(*vcpu_, anchor, saved().asReader()).ToString(), "OK");
  EXPECT_NE(vcpu_->GetRegs()->rax, regs.rax);
  EXPECT_NE(vcpu_->GetLapic()->regs[0xf0], lapic.regs[0xf0]);
  anchor = {};
  const state::Vcpu::Reader in = changed.getRoot<state::Vcpu>().asReader();
  ASSERT_EQ(CheckVcpu(*kvm_, *vcpu_, host_cpuid_, in).ToString(), "OK");
  ASSERT_EQ(LoadVcpu(*vcpu_, anchor, in).ToString(), "OK");
  capnp::MallocMessageBuilder again;
  ASSERT_TRUE(SaveVcpu(*kvm_, *vcpu_, again.initRoot<state::Vcpu>()).ok());
  const state::Vcpu::Reader out = again.getRoot<state::Vcpu>().asReader();
  EXPECT_TRUE(in.getRegs() == out.getRegs());
  EXPECT_TRUE(in.getSregs() == out.getSregs());
  EXPECT_TRUE(in.getXsave() == out.getXsave());
  EXPECT_TRUE(in.getXcrs() == out.getXcrs());
  EXPECT_TRUE(in.getDebugRegs() == out.getDebugRegs());
  EXPECT_TRUE(in.getLapic() == out.getLapic());
  EXPECT_TRUE(in.getEvents() == out.getEvents());
  EXPECT_EQ(in.getMpState(), out.getMpState());
  ASSERT_EQ(in.getMsrs().size(), out.getMsrs().size());
  for (uint32_t i = 0; i < in.getMsrs().size(); ++i) {
    const state::Msr::Reader before = in.getMsrs()[i];
    const state::Msr::Reader after = out.getMsrs()[i];
    EXPECT_EQ(before.getIndex(), after.getIndex());
    // Registers that count time go on: the TSC, and Hyper-V's, which KVM lists where it offers them.
    constexpr uint32_t kHyperVRuntime = 0x40000010;
    constexpr uint32_t kHyperVTime = 0x40000020;
    if (before.getIndex() == kMsrTsc || before.getIndex() == kHyperVRuntime || before.getIndex() == kHyperVTime) {
      EXPECT_GE(after.getValue(), before.getValue()) << "time went back";
    } else {
      EXPECT_EQ(before.getValue(), after.getValue()) << MsrName(before.getIndex());
    }
  }
}

// R9: between the call that makes it and the next KVM_RUN.
TEST_F(VcpuStateTest, PendingMachineCheckComesAlong) {
  kvm_sregs sregs = *vcpu_->GetSregs();
  sregs.cr4 |= 1 << 6;  // MCE
  ASSERT_TRUE(vcpu_->SetSregs(sregs).ok());
  constexpr GuestAddress kLost{0x3000};
  if (const absl::Status told = TellOfMemoryError(*vcpu_, kLost); absl::IsFailedPrecondition(told)) {
    GTEST_SKIP() << told;
  } else {
    ASSERT_EQ(told.ToString(), "OK");
  }
  capnp::MallocMessageBuilder pending;
  ASSERT_TRUE(SaveVcpu(*kvm_, *vcpu_, pending.initRoot<state::Vcpu>()).ok());
  const auto expect = [&](bool is_pending) {
    constexpr int kMachineCheck = 18;
    const kvm_vcpu_events events = *vcpu_->GetEvents();
    EXPECT_EQ((events.exception.pending != 0 || events.exception.injected != 0) && events.exception.nr == kMachineCheck,
              is_pending);
    constexpr uint32_t kBank9[] = {0x425, 0x426};
    const std::vector<kvm_msr_entry> bank = *vcpu_->GetMsrs(kBank9);
    ASSERT_EQ(bank.size(), 2u);
    EXPECT_EQ(bank[0].data != 0, is_pending);
    EXPECT_EQ(bank[1].data, is_pending ? kLost.value() : 0);
  };
  expect(true);
  TscAnchor anchor;
  ASSERT_EQ(LoadVcpu(*vcpu_, anchor, saved().asReader()).ToString(), "OK");
  expect(false);
  anchor = {};
  const state::Vcpu::Reader in = pending.getRoot<state::Vcpu>().asReader();
  ASSERT_EQ(CheckVcpu(*kvm_, *vcpu_, host_cpuid_, in).ToString(), "OK");
  ASSERT_EQ(LoadVcpu(*vcpu_, anchor, in).ToString(), "OK");
  expect(true);
}

TEST_F(VcpuStateTest, TscsKeepTheirDistance) {
  absl::StatusOr<std::unique_ptr<KvmVcpu>> second = vm_->CreateVcpu(1);
  ASSERT_TRUE(second.ok());
  ASSERT_TRUE((*second)->SetCpuid(host_cpuid_).ok());
  const std::optional<uint64_t> offset = (*second)->GetTscOffset();
  if (!offset.has_value() || !(*second)->SetTscOffset(*offset + 1).ok() || (*second)->GetTscOffset() == offset) {
    GTEST_SKIP() << "this host's KVM has no TSC offset that can be set";
  }
  capnp::MallocMessageBuilder message;
  ASSERT_TRUE(SaveVcpu(*kvm_, **second, message.initRoot<state::Vcpu>()).ok());
  auto other = message.getRoot<state::Vcpu>();
  other.setTscOffset(saved().getTscOffset() + 12345);
  TscAnchor anchor;
  ASSERT_EQ(LoadVcpu(*vcpu_, anchor, saved().asReader()).ToString(), "OK");
  ASSERT_EQ(LoadVcpu(**second, anchor, other.asReader()).ToString(), "OK");
  EXPECT_EQ(*(*second)->GetTscOffset() - *vcpu_->GetTscOffset(), 12345u);
}

TEST_F(VcpuStateTest, R7WhatDoesNotFitIsRefusedByName) {
  EXPECT_EQ(Check(), "");
  saved().setVersion(kVcpuStateVersion + 1);
  EXPECT_THAT(Check(), HasSubstr("vCPU 0: its state has version 2"));
  saved().setVersion(0);
  EXPECT_THAT(Check(), HasSubstr("version 0"));
  saved().setVersion(kVcpuStateVersion);
  saved().setIndex(4);
  EXPECT_THAT(Check(), HasSubstr("index 4"));
  saved().setIndex(0);
  saved().setMpState(9);
  EXPECT_THAT(Check(), HasSubstr("mpState 9"));
}

TEST_F(VcpuStateTest, R7BlobsOfAnotherLengthAreRefusedByName) {
  const auto refused = [this](auto init, const char* name) {
    ASSERT_EQ(SaveVcpu(*kvm_, *vcpu_, message_->initRoot<state::Vcpu>()).ToString(), "OK");
    init(saved());
    EXPECT_THAT(Check(), HasSubstr(name));
  };
  refused([](auto state) { state.initRegs(sizeof(kvm_regs) - 1); }, "regs has 143 bytes, not 144");
  refused([](auto state) { state.initSregs(0); }, "sregs has 0 bytes");
  refused([](auto state) { state.initXsave(100); }, "xsave has 100 bytes");
  refused([](auto state) { state.initXsave(1 << 20); }, "xsave has 1048576 bytes");
  refused([](auto state) { state.initXcrs(8); }, "xcrs has 8 bytes");
  refused([](auto state) { state.initDebugRegs(8); }, "debugRegs has 8 bytes");
  refused([](auto state) { state.initLapic(8); }, "lapic has 8 bytes");
  refused([](auto state) { state.initEvents(8); }, "events has 8 bytes");
  refused([](auto state) { state.initMsrs(100'000); }, "100000 MSRs");
  refused([](auto state) { state.initCpuid(1000); }, "1000 CPUID entries");
  refused([](auto state) { memset(state.initXcrs(sizeof(kvm_xcrs)).begin(), 0xff, 4); }, "xcrs counts more");
}

TEST_F(VcpuStateTest, R7RegisterThatThisHostLacksIsRefusedUnlessItIsZero) {
  auto msrs = saved().initMsrs(1);
  msrs[0].setIndex(0x4000'0fff);
  EXPECT_EQ(Check(), "");
  msrs[0].setValue(5);
  EXPECT_THAT(Check(), HasSubstr("MSR 0x40000fff is 0x5"));
}

TEST_F(VcpuStateTest, R7FeatureThatThisHostLacksIsRefused) {
  for (kvm_cpuid_entry2& entry : host_cpuid_) {
    if (entry.function == 1) {
      entry.edx &= ~(1u << 26);  // SSE2
    }
  }
  EXPECT_THAT(Check(), HasSubstr("CPUID 0x1.0 edx bit 26"));
}

TEST_F(KvmVmTest, IrqchipComesBackAndOthersAreRefused) {
  const std::unique_ptr<capnp::MallocMessageBuilder> message = std::make_unique<capnp::MallocMessageBuilder>();
  kvm_irqchip ioapic = *vm_->GetIrqchip(KVM_IRQCHIP_IOAPIC);
  ioapic.chip.ioapic.redirtbl[5].fields.vector = 0x45;
  ASSERT_TRUE(vm_->SetIrqchip(ioapic).ok());
  auto saved = message->initRoot<state::Irqchip>();
  ASSERT_EQ(SaveIrqchip(*vm_, saved).ToString(), "OK");
  ASSERT_EQ(CheckIrqchip(saved.asReader()).ToString(), "OK");
  ioapic.chip.ioapic.redirtbl[5].fields.vector = 0x99;
  ASSERT_TRUE(vm_->SetIrqchip(ioapic).ok());
  ASSERT_EQ(LoadIrqchip(*vm_, saved.asReader()).ToString(), "OK");
  EXPECT_EQ(vm_->GetIrqchip(KVM_IRQCHIP_IOAPIC)->chip.ioapic.redirtbl[5].fields.vector, 0x45);

  const std::vector<uint8_t> master(saved.getPicMaster().begin(), saved.getPicMaster().end());
  saved.setIoapic({master.data(), master.size()});
  EXPECT_THAT(std::string(CheckIrqchip(saved.asReader()).message()), HasSubstr("irqchip: ioapic holds chip 0"));
  saved.initIoapic(3);
  EXPECT_THAT(std::string(CheckIrqchip(saved.asReader()).message()), HasSubstr("irqchip: ioapic has 3 bytes"));
  saved.setVersion(9);
  EXPECT_THAT(std::string(CheckIrqchip(saved.asReader()).message()), HasSubstr("version 9"));
}

// An edge that follows a line which was high when the state was saved must not be lost.
TEST_F(KvmVmTest, LinesThatWereHighAreLowAfterALoad) {
  const std::unique_ptr<capnp::MallocMessageBuilder> message = std::make_unique<capnp::MallocMessageBuilder>();
  auto saved = message->initRoot<state::Irqchip>();
  ASSERT_EQ(SaveIrqchip(*vm_, saved).ToString(), "OK");
  kvm_irqchip ioapic;
  ASSERT_EQ(saved.getIoapic().size(), sizeof(ioapic));
  memcpy(&ioapic, saved.getIoapic().begin(), sizeof(ioapic));
  ioapic.chip.ioapic.irr = 1u << 5 | 1u << 23;
  saved.setIoapic({reinterpret_cast<const uint8_t*>(&ioapic), sizeof(ioapic)});
  ASSERT_EQ(LoadIrqchip(*vm_, saved.asReader()).ToString(), "OK");
  EXPECT_EQ(vm_->GetIrqchip(KVM_IRQCHIP_IOAPIC)->chip.ioapic.irr, 0u);
}

TEST_F(KvmVmTest, ClockGoesOnFromWhereItWas) {
  const std::unique_ptr<capnp::MallocMessageBuilder> message = std::make_unique<capnp::MallocMessageBuilder>();
  auto saved = message->initRoot<state::Clock>();
  ASSERT_EQ(SaveClock(*vm_, saved).ToString(), "OK");
  ASSERT_EQ(CheckClock(saved.asReader()).ToString(), "OK");
  kvm_clock_data later;
  memcpy(&later, saved.getKvmClock().begin(), sizeof(later));
  const uint64_t before = later.clock;
  later.clock += 3'600'000'000'000;
  saved.setKvmClock({reinterpret_cast<const uint8_t*>(&later), sizeof(later)});
  ASSERT_EQ(LoadClock(*vm_, saved.asReader()).ToString(), "OK");
  const uint64_t now = vm_->GetClock()->clock;
  EXPECT_GE(now, later.clock);
  EXPECT_LT(now, later.clock + 600'000'000'000);
  EXPECT_GT(now, before);
  saved.initKvmClock(1);
  EXPECT_FALSE(CheckClock(saved.asReader()).ok());
}

}  // namespace
}  // namespace ferrite
