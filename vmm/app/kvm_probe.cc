#include "vmm/app/kvm_probe.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/mapping.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_abi.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vm.h"

namespace ferrite {
namespace {

constexpr char kArea[] = "KVM";
constexpr char kNoGuest[] = "no guest runs";
constexpr char kUseNested[] = "run it in the nested machine (./dev demo does), or use a host with hardware KVM";

// The slowest processor of today, emulated in software itself, runs some ten million instructions a second; a KVM that
// interprets ring 0 about two.
constexpr double kLinuxInstructionsPerSecond = 8e6;

constexpr GuestAddress kLoopAddress{0x1000};
constexpr size_t kLoopMemoryBytes = 0x10000;
constexpr uint32_t kLoopRounds = 20'000;
constexpr uint32_t kLoopInstructions = 2 * kLoopRounds;
constexpr int kLoopRuns = 5;

// Runs a loop in ring 0 (real mode) some times and returns the best speed, in instructions a second.
absl::StatusOr<double> MeasureRingZero(const Kvm& kvm) {
  // mov ecx, kLoopRounds; again: dec ecx; jnz again; out 0x10, al; jmp to the start
  static constexpr uint8_t kLoop[] = {0x66,
                                      0xb9,
                                      kLoopRounds & 0xff,
                                      (kLoopRounds >> 8) & 0xff,
                                      (kLoopRounds >> 16) & 0xff,
                                      kLoopRounds >> 24,
                                      0x66,
                                      0x49,
                                      0x75,
                                      0xfc,
                                      0xe6,
                                      0x10,
                                      0xeb,
                                      0xf2};
  FERRITE_ASSIGN_OR_RETURN(const Mapping memory,
                           Mapping::Create("scratch VM", kLoopMemoryBytes, MAP_PRIVATE | MAP_ANONYMOUS));
  std::memcpy(memory.data() + kLoopAddress.value(), kLoop, sizeof(kLoop));
  FERRITE_ASSIGN_OR_RETURN(const std::unique_ptr<KvmVm> vm, KvmVm::Create(kvm, DirtyMode::kLog));
  FERRITE_RETURN_IF_ERROR(vm->SetSlot({.slot = 0, .base = GuestAddress(0), .host = memory.span()}));
  FERRITE_ASSIGN_OR_RETURN(const std::unique_ptr<KvmVcpu> vcpu, vm->CreateVcpu(0));
  FERRITE_ASSIGN_OR_RETURN(kvm_sregs sregs, vcpu->GetSregs());
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  FERRITE_RETURN_IF_ERROR(vcpu->SetSregs(sregs));
  kvm_regs regs = {};
  regs.rip = kLoopAddress.value();
  regs.rflags = 2;
  FERRITE_RETURN_IF_ERROR(vcpu->SetRegs(regs));

  absl::Duration best = absl::InfiniteDuration();
  for (int run = 0; run < kLoopRuns; ++run) {
    const MonotonicTime start = MonotonicTime::Now();
    int error;
    do {
      error = vcpu->Run();
    } while (error == EINTR || error == EAGAIN);
    if (error != 0) {
      return ErrnoStatus(error, "KVM_RUN");
    }
    if (vcpu->run().exit_reason != KVM_EXIT_IO) {
      return absl::InternalError(absl::StrCat("KVM_RUN ended with exit ", vcpu->run().exit_reason));
    }
    best = std::min(best, MonotonicTime::Now() - start);
  }
  return kLoopInstructions / std::max(absl::ToDoubleSeconds(best), 1e-9);
}

void AddCapabilities(const KvmCapabilities& capabilities, std::vector<Finding>& findings) {
  for (const KvmCapability& row : capabilities.rows()) {
    Finding finding{.area = kArea, .name = row.name, .value = absl::StrCat(row.value)};
    if (row.value <= 0) {
      finding.state = FindingState::kMissing;
      finding.value = row.required ? "no, and ferrite needs it" : "no";
      finding.cost = row.lost;
      finding.remedy = row.how_to_get;
    }
    findings.push_back(std::move(finding));
  }
}

}  // namespace

KvmProbe ProbeKvm(const std::string& path) {
  KvmProbe probe;
  const auto kvm = Kvm::Open(path);
  if (!kvm.ok()) {
    const std::string message(kvm.status().message());
    probe.findings.push_back({.area = kArea,
                              .name = path,
                              .state = FindingState::kMissing,
                              .value = absl::IsPermissionDenied(kvm.status()) ? "no permission" : "cannot be used",
                              .cost = kNoGuest,
                              .remedy = message});
    probe.verdict = absl::StrCat("Linux does not run here: ", message);
    return probe;
  }
  probe.findings.push_back({.area = kArea, .name = path, .value = absl::StrCat("API ", KVM_API_VERSION)});

  Finding speed{.area = kArea, .name = "ring-0 speed"};
  const auto instructions_per_second = MeasureRingZero(**kvm);
  if (!instructions_per_second.ok()) {
    const std::string message(instructions_per_second.status().message());
    speed.state = FindingState::kMissing;
    speed.value = absl::StrCat("could not be measured: ", message);
    speed.cost = kNoGuest;
    speed.remedy = kUseNested;
    probe.verdict = absl::StrCat("Linux does not run here: ", message);
  } else if (*instructions_per_second < kLinuxInstructionsPerSecond) {
    speed.state = FindingState::kLimited;
    speed.value = absl::StrFormat("%.1f million instructions/s: emulated", *instructions_per_second / 1e6);
    speed.cost = "Linux does not run here; payload guests that leave ring 0 do, at full speed";
    speed.remedy = kUseNested;
    probe.verdict = absl::StrFormat(
        "Linux does not run on this KVM: it emulates ring 0 (%.1f million instructions/s); use the nested machine",
        *instructions_per_second / 1e6);
  } else {
    speed.value = absl::StrFormat("%.0f million instructions/s: runs Linux", *instructions_per_second / 1e6);
    probe.runs_linux = true;
    probe.verdict = "Linux runs here: KVM with hardware virtualisation";
  }
  probe.findings.push_back(std::move(speed));
  AddCapabilities((*kvm)->capabilities(), probe.findings);
  return probe;
}

}  // namespace ferrite
