// What every nested test stands on: the outer machine has KVM with hardware virtualisation, and ring-0 code of a guest
// runs at the (emulated) processor's own speed. Uses nothing of ours, so that it tells a broken outer machine from a
// broken monitor.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

namespace {

constexpr size_t kMemoryBytes = 64 << 10;
constexpr uint64_t kCodeAddress = 0x1000;

TEST(HardwareKvm, RunsRealModeCodeInRingZero) {
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  ASSERT_GE(kvm, 0) << strerror(errno);
  ASSERT_EQ(ioctl(kvm, KVM_GET_API_VERSION, 0), KVM_API_VERSION);
  int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  ASSERT_GE(vm, 0) << strerror(errno);

  void* memory = mmap(nullptr, kMemoryBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  // mov eax, 10'000'000; loop: dec eax; jnz loop; mov al, 42; out 0x10, al; hlt
  const uint8_t code[] = {0x66, 0xb8, 0x80, 0x96, 0x98, 0x00, 0x66, 0x48, 0x75, 0xfc, 0xb0, 0x2a, 0xe6, 0x10, 0xf4};
  memcpy(static_cast<uint8_t*>(memory) + kCodeAddress, code, sizeof(code));
  kvm_userspace_memory_region region = {};
  region.memory_size = kMemoryBytes;
  region.userspace_addr = reinterpret_cast<uint64_t>(memory);
  ASSERT_EQ(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), 0) << strerror(errno);

  int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  ASSERT_GE(vcpu, 0) << strerror(errno);
  int run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  auto* run = static_cast<kvm_run*>(mmap(nullptr, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
  ASSERT_NE(run, MAP_FAILED);
  kvm_sregs segments = {};
  ASSERT_EQ(ioctl(vcpu, KVM_GET_SREGS, &segments), 0);
  segments.cs.base = 0;
  segments.cs.selector = 0;
  ASSERT_EQ(ioctl(vcpu, KVM_SET_SREGS, &segments), 0);
  kvm_regs registers = {};
  registers.rip = kCodeAddress;
  registers.rflags = 2;
  ASSERT_EQ(ioctl(vcpu, KVM_SET_REGS, &registers), 0);

  ASSERT_EQ(ioctl(vcpu, KVM_RUN, 0), 0) << strerror(errno);
  ASSERT_EQ(run->exit_reason, static_cast<uint32_t>(KVM_EXIT_IO));
  EXPECT_EQ(run->io.port, 0x10);
  EXPECT_EQ(*(reinterpret_cast<uint8_t*>(run) + run->io.data_offset), 42);
  ASSERT_EQ(ioctl(vcpu, KVM_RUN, 0), 0) << strerror(errno);
  EXPECT_EQ(run->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));

  close(vcpu);
  close(vm);
  close(kvm);
  munmap(run, run_bytes);
  munmap(memory, kMemoryBytes);
}

}  // namespace
