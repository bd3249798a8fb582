// One VM of KVM: memory slots, interrupt controllers, eventfds, dirty log. Follows Documentation/virt/kvm/api.rst.
#ifndef FERRITE_VMM_KVM_VM_H_
#define FERRITE_VMM_KVM_VM_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "memory/guest_address.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_abi.h"
#include "vmm/kvm/vcpu.h"

namespace ferrite {

// How the VM notes which pages its vCPUs wrote.
enum class DirtyMode {
  kLog,  // a bitmap for each slot; cleared by ClearDirtyLog() where the kernel has manual protect
  kRing  // a ring for each vCPU (KvmVcpu::dirty_ring()) and ResetDirtyRings()
};

// Written pages that a ring holds for its vCPU before that has to stop: 256 MiB. The kernel's limit is the same today.
inline constexpr uint32_t kRingEntries = 65536;

struct KvmMemorySlot {
  uint32_t slot = 0;
  GuestAddress base;
  std::span<uint8_t> host;  // outlives the VM
  bool log_dirty = false;
};

// Threads: any, unless a method says otherwise.
class KvmVm {
 public:
  // KVM_CREATE_VM with `slots`, the complete in-kernel interrupt controllers (PICs, I/O APIC, local APICs) and the
  // timer (PIT). UNIMPLEMENTED when the host lacks a required capability; kRing on a host without it is one, too. `kvm`
  // outlives the VM. `ring_entries` (kRing): a power of two, 4096 or more, or what the kernel offers when that is less.
  static absl::StatusOr<std::unique_ptr<KvmVm>> Create(const Kvm& kvm, DirtyMode mode,
                                                       std::span<const KvmMemorySlot> slots = {},
                                                       uint32_t ring_entries = kRingEntries);

  const Kvm& kvm() const { return kvm_; }
  int fd() const { return fd_.get(); }
  // KVM_CHECK_EXTENSION on the VM, which may differ from the device's answer; 0 when missing.
  int CheckExtension(int capability) const;

  // KVM_SET_USER_MEMORY_REGION: makes the slot, or changes `log_dirty` of one made before (nothing else may change).
  // Turning the log on marks no page as dirty, except where starts_all_dirty().
  absl::Status SetSlot(const KvmMemorySlot& slot);

  DirtyMode dirty_mode() const { return mode_; }
  // Whether pages stay dirty until ClearDirtyLog() (manual protect); else GetDirtyLog() clears what it returns.
  bool manual_protect() const { return manual_protect_; }
  // Whether all pages count as dirty when the log is turned on: the kernel then write-protects none at once, but in
  // ClearDirtyLog(), piece by piece.
  bool starts_all_dirty() const { return starts_all_dirty_; }
  // KVM_GET_DIRTY_LOG; `words` has one bit for each page of the slot. kLog only.
  absl::Status GetDirtyLog(uint32_t slot, std::span<uint64_t> words) const;
  // KVM_CLEAR_DIRTY_LOG of the set bits in `words`, whose first bit is page `first_page` (a multiple of 64).
  // `pages` is a multiple of 64 or reaches the slot's end. manual_protect() only.
  absl::Status ClearDirtyLog(uint32_t slot, uint64_t first_page, uint32_t pages, std::span<const uint64_t> words) const;
  // KVM_RESET_DIRTY_RINGS: protects again the pages that were reaped from the rings and returns their number. kRing
  // only; one thread at a time.
  absl::StatusOr<uint32_t> ResetDirtyRings() const;

  // KVM_IRQFD: a signal of `event_fd` is an edge on interrupt line `gsi`.
  absl::Status AddIrqFd(int event_fd, uint32_t gsi) const;
  // KVM_IRQ_LINE with level 0.
  absl::Status LowerIrqLine(uint32_t gsi) const;
  // KVM_IOEVENTFD: a write of `bytes` (1, 2, 4, 8) to `address` signals `event_fd` and does not exit; with `match`
  // only a write of that value.
  absl::Status AddIoEventFd(int event_fd, GuestAddress address, uint32_t bytes, std::optional<uint64_t> match) const;

  // KVM_CREATE_VCPU with the APIC id `index`, and its power-on MP state: 0 runs, the others wait for INIT and SIPI.
  absl::StatusOr<std::unique_ptr<KvmVcpu>> CreateVcpu(uint32_t index) const;

  // `chip` is KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE or KVM_IRQCHIP_IOAPIC. The vCPUs stand still meanwhile.
  absl::StatusOr<kvm_irqchip> GetIrqchip(uint32_t chip) const;
  absl::Status SetIrqchip(kvm_irqchip chip) const;
  absl::StatusOr<kvm_pit_state2> GetPit() const;
  absl::Status SetPit(const kvm_pit_state2& pit) const;
  absl::StatusOr<kvm_clock_data> GetClock() const;
  absl::Status SetClock(const kvm_clock_data& clock) const;

 private:
  KvmVm(const Kvm& kvm, Fd fd, DirtyMode mode) : kvm_(kvm), fd_(std::move(fd)), mode_(mode) {}

  absl::Status CreateIrqchips() const;
  absl::Status SetUpDirtyTracking(uint32_t ring_entries);
  void EnableTripleFaultEvent() const;

  const Kvm& kvm_;
  Fd fd_;
  const DirtyMode mode_;
  uint32_t ring_entries_ = 0;
  bool manual_protect_ = false;
  bool starts_all_dirty_ = false;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_VM_H_
