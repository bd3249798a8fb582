// The least that a process has to do before a guest's first instruction runs: a VM with an interrupt controller, 128
// MiB of memory from a memfd, one vCPU in real mode, and an `out` that comes back. Says "event=hello" then, as the
// payload of start_bench does. With no library of ours.
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr uint64_t kMemoryBytes = uint64_t{128} << 20;
constexpr uint64_t kCodeAddress = 0x1000;
constexpr uint8_t kCode[] = {0xe6, 0x10};  // out %al, $0x10

int Must(int result) {
  if (result < 0) {
    std::abort();
  }
  return result;
}

}  // namespace

int main() {
  const int kvm = Must(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  const int vm = Must(ioctl(kvm, KVM_CREATE_VM, 0));
  Must(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000));
  const int memory = Must(memfd_create("bare-kvm", MFD_CLOEXEC));
  Must(ftruncate(memory, kMemoryBytes));
  void* const ram = mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (ram == MAP_FAILED) {
    std::abort();
  }
  std::memcpy(static_cast<uint8_t*>(ram) + kCodeAddress, kCode, sizeof(kCode));
  kvm_userspace_memory_region region = {};
  region.memory_size = kMemoryBytes;
  region.userspace_addr = reinterpret_cast<uint64_t>(ram);
  // As KvmVm::Create() does, in this order.
  Must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region));
  Must(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
  const int vcpu = Must(ioctl(vm, KVM_CREATE_VCPU, 0));
  const auto run_bytes = static_cast<size_t>(Must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)));
  auto* const run = static_cast<kvm_run*>(mmap(nullptr, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
  kvm_sregs special = {};
  Must(ioctl(vcpu, KVM_GET_SREGS, &special));
  special.cs.base = 0;
  special.cs.selector = 0;
  Must(ioctl(vcpu, KVM_SET_SREGS, &special));
  kvm_regs general = {};
  general.rip = kCodeAddress;
  general.rflags = 2;
  Must(ioctl(vcpu, KVM_SET_REGS, &general));
  Must(ioctl(vcpu, KVM_RUN, 0));
  if (run->exit_reason != KVM_EXIT_IO) {
    std::abort();
  }
  constexpr char kHello[] = "event=hello\n";
  return write(STDOUT_FILENO, kHello, sizeof(kHello) - 1) > 0 ? 0 : 1;
}
