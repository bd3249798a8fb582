// Instructions and the block of memory that each vCPU has to itself.
#ifndef FERRITE_TESTS_GUEST_RUNTIME_CPU_H_
#define FERRITE_TESTS_GUEST_RUNTIME_CPU_H_

#include <cstdint>

namespace guest {

inline void Out8(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
inline void Out16(uint16_t port, uint16_t value) { asm volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
inline void Out32(uint16_t port, uint32_t value) { asm volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory"); }
inline uint8_t In8(uint16_t port) {
  uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
inline uint16_t In16(uint16_t port) {
  uint16_t value;
  asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
inline uint32_t In32(uint16_t port) {
  uint32_t value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

// Device registers; one plain mov each, which every KVM can emulate.
template <typename T>
inline T ReadMmio(uint64_t address) {
  T value;
  asm volatile("mov %1, %0" : "=r"(value) : "m"(*reinterpret_cast<volatile T*>(address)) : "memory");
  return value;
}
template <typename T>
inline void WriteMmio(uint64_t address, T value) {
  asm volatile("mov %1, %0" : "=m"(*reinterpret_cast<volatile T*>(address)) : "r"(value) : "memory");
}

inline uint64_t Tsc() {
  uint32_t low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return uint64_t{high} << 32 | low;
}

inline void Relax() { asm volatile("pause" : : : "memory"); }

// What KVM writes for a vCPU's clock (KVM's documentation, "KVM-specific MSRs", MSR_KVM_SYSTEM_TIME_NEW).
struct KvmClock {
  volatile uint32_t version;  // odd while KVM writes; 0 when there is no KVM clock
  uint32_t padding0;
  volatile uint64_t tsc_timestamp;
  volatile uint64_t system_time;
  volatile uint32_t tsc_to_system_mul;
  volatile int8_t tsc_shift;
  volatile uint8_t flags;
  uint8_t padding1[2];
};

inline constexpr uint32_t kMaxCpus = 32;

// Its address is the vCPU's gs base; start.S knows the size and that the clock comes first.
struct alignas(128) Cpu {
  KvmClock clock;
  Cpu* self;
  uint32_t index;
  volatile uint32_t arrived;

  // The longest time between two calls of Heartbeat(): what the guest saw of a pause.
  uint64_t last_beat;
  uint64_t longest_gap;
  uint64_t longest_gap_end;  // the time stamp at its end

  // Once in every turn of every loop; also within slow things (console output), so that their time is no gap.
  void Heartbeat() {
    const uint64_t now = Tsc();
    const uint64_t gap = now - last_beat;
    if (gap > longest_gap) {
      longest_gap = gap;
      longest_gap_end = now;
    }
    last_beat = now;
  }
  void ForgetGaps() {
    longest_gap = 0;
    last_beat = Tsc();
  }
};
static_assert(sizeof(Cpu) == 128);

inline Cpu& ThisCpu() {
  Cpu* self;
  asm volatile("movq %%gs:%c1, %0" : "=r"(self) : "i"(__builtin_offsetof(Cpu, self)));
  return *self;
}

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_CPU_H_
