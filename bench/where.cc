#include "bench/where.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/fd.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr unsigned kHypervisorLeaf = 0x40000000;
constexpr char kQemuEmulates[] = "TCGTCGTCGTCG";

// What a hypervisor says of itself; empty without one.
std::string HypervisorName() {
  unsigned eax = 0;
  unsigned name[3] = {};
  __cpuid(1, eax, name[0], name[1], name[2]);
  if ((name[1] & (1u << 31)) == 0) {  // ECX, "a hypervisor is there"
    return "";
  }
  __cpuid(kHypervisorLeaf, eax, name[0], name[1], name[2]);
  char text[sizeof(name) + 1] = {};
  std::memcpy(text, name, sizeof(name));
  return text;
}

std::string KindOfKvm() {
  if (HypervisorName() == kQemuEmulates) {
    return "KVM in an emulated processor (QEMU's)";
  }
  for (const char* module : {"kvm_intel", "kvm_amd"}) {
    if (access(absl::StrCat("/sys/module/", module).c_str(), F_OK) == 0) {
      return absl::StrCat("KVM with hardware virtualisation (", module, ")");
    }
  }
  return "KVM without hardware virtualisation (it emulates the guest's kernel mode)";
}

std::string ProcessorModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (absl::StartsWith(line, "model name")) {
      return std::string(absl::StripAsciiWhitespace(line.substr(line.find(':') + 1)));
    }
  }
  return "model unknown";
}

}  // namespace

absl::Status KvmIsHere(const std::string& path) {
  const Fd kvm(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!kvm.valid()) {
    return ErrnoStatus(absl::StrCat("open ", path));
  }
  const int version = ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
  if (version < 0) {
    return ErrnoStatus(absl::StrCat(path, " is not KVM: KVM_GET_API_VERSION"));
  }
  return version == KVM_API_VERSION
             ? absl::OkStatus()
             : absl::UnimplementedError(absl::StrCat(path, " is KVM of API ", version, ", not ", KVM_API_VERSION));
}

std::string WhereItRuns(Needs needs) {
  utsname kernel = {};
  (void)uname(&kernel);
  double load = 0;
  (void)getloadavg(&load, 1);
  const std::string kvm = needs == Needs::kKvm ? KindOfKvm() : "no KVM needed";
  return absl::StrFormat("%s, %d processors (%s), Linux %s, load %.2f", kvm, sysconf(_SC_NPROCESSORS_ONLN),
                         ProcessorModel(), kernel.release, load);
}

std::optional<int> CannotRunHere(absl::string_view name) {
  const absl::Status status = KvmIsHere();
  if (status.ok()) {
    return std::nullopt;
  }
  absl::PrintF("%s cannot run here: %s. What runs instead: ./dev bench //bench:engine_bench\n", name, status.message());
  return kCannotRunHere;
}

}  // namespace ferrite
