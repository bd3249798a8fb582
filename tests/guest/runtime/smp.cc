#include "tests/guest/runtime/smp.h"

#include "tests/guest/runtime/clock.h"
#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/options.h"
#include "tests/guest/runtime/platform.h"

namespace guest {
namespace {

constexpr uint64_t kStackBytes = 16384;  // start.S: STACK_SHIFT

}  // namespace
}  // namespace guest

extern "C" {
guest::Cpu guest_cpus[guest::kMaxCpus];
alignas(4096) uint8_t guest_stacks[guest::kMaxCpus][guest::kStackBytes];
uint8_t guest_index_of_apic_id[256];

extern const uint8_t guest_ap_trampoline[];
extern const uint8_t guest_ap_trampoline_end[];
extern const uint8_t guest_ap_page_tables[];
extern uint64_t guest_page_tables;

using Constructor = void (*)();
extern Constructor guest_init_begin[];
extern Constructor guest_init_end[];

[[noreturn]] void guest_entry(uint32_t index);
}

namespace guest {
namespace {

// A page below 1 MiB that the loader leaves free.
constexpr uint64_t kTrampoline = 0x8f000;

// The local APIC's registers (Intel SDM volume 3, 11.4), at their place after a reset.
constexpr uint64_t kApic = 0xfee00000;
constexpr uint64_t kApicIcrLow = kApic + 0x300;
constexpr uint32_t kIcrPending = 0x1000;
// To all but the sender: also where a directed interrupt does not find a vCPU that never ran.
constexpr uint32_t kIcrInit = 0xc4500;
constexpr uint32_t kIcrStartup = 0xc4600;
constexpr uint32_t kIcrNmi = 0xc4400;
constexpr uint8_t kNoIndex = 0xff;  // start.S: NO_INDEX
constexpr uint64_t kStartMs = 10'000;

bool cpus_started;
Atomic<void (*)()> current_work;
Atomic<uint32_t> work_number;
Atomic<uint32_t> work_done;
Atomic<uint32_t> barrier_waiting;
Atomic<uint32_t> barrier_turn;

void SendIpi(uint32_t command) {
  WriteMmio<uint32_t>(kApicIcrLow, command);
  while ((ReadMmio<uint32_t>(kApicIcrLow) & kIcrPending) != 0) {
    Relax();
  }
}

void StartCpus() {
  if (cpus_started || Cpus() == 1) {
    return;
  }
  cpus_started = true;
  auto* trampoline = reinterpret_cast<uint8_t*>(kTrampoline);
  __builtin_memcpy(trampoline, guest_ap_trampoline,
                   static_cast<uint64_t>(guest_ap_trampoline_end - guest_ap_trampoline));
  const uint32_t page_tables = static_cast<uint32_t>(guest_page_tables);
  __builtin_memcpy(trampoline + (guest_ap_page_tables - guest_ap_trampoline), &page_tables, sizeof(page_tables));
  __builtin_memset(guest_index_of_apic_id, kNoIndex, sizeof(guest_index_of_apic_id));
  const auto ids = ApicIds();
  for (uint32_t i = 1; i < Cpus(); ++i) {
    guest_index_of_apic_id[i < ids.count ? ids.first[i] : i] = static_cast<uint8_t>(i);
  }
  SendIpi(kIcrInit);
  SendIpi(kIcrStartup | kTrampoline >> 12);
  const uint64_t deadline = Tsc() + kStartMs * TscKhz();
  for (uint32_t i = 1; i < Cpus(); ++i) {
    while (guest_cpus[i].arrived == 0) {
      if (Tsc() > deadline) {
        Fail("vcpu-does-not-start", i);
      }
      Relax();
    }
  }
}

[[noreturn]] void WorkForever() {
  Cpu& cpu = ThisCpu();
  uint32_t seen = 0;
  cpu.arrived = 1;
  for (;;) {
    while (work_number.Load() == seen) {
      Relax();
    }
    ++seen;
    cpu.ForgetGaps();
    current_work.Load()();
    work_done.Add(1);
  }
}

}  // namespace

uint32_t Cpus() {
  const uint64_t found = ApicIds().count == 0 ? 1 : ApicIds().count;
  const uint64_t cpus = NumberOption("cpus", found);
  return static_cast<uint32_t>(cpus == 0 || cpus > kMaxCpus ? found : cpus);
}

Cpu& CpuAt(uint32_t index) { return guest_cpus[index]; }

void SendNmi() { SendIpi(kIcrNmi); }

void RunOnAllCpus(void (*work)()) {
  StartCpus();
  work_done.Store(0);
  current_work.Store(work);
  work_number.Add(1);
  ThisCpu().ForgetGaps();
  work();
  while (work_done.Load() != Cpus() - 1) {
    ThisCpu().Heartbeat();
    Relax();
  }
}

void Barrier() {
  const uint32_t turn = barrier_turn.Load();
  if (barrier_waiting.Add(1) + 1 == Cpus()) {
    barrier_waiting.Store(0);
    barrier_turn.Add(1);
    return;
  }
  while (barrier_turn.Load() == turn) {
    ThisCpu().Heartbeat();
    Relax();
  }
}

}  // namespace guest

extern "C" void guest_entry(uint32_t index) {
  guest::Cpu& cpu = guest_cpus[index];
  cpu.self = &cpu;
  cpu.index = index;
  cpu.ForgetGaps();
  if (index != 0) {
    guest::WorkForever();
  }
  for (Constructor* constructor = guest_init_begin; constructor != guest_init_end; ++constructor) {
    (*constructor)();
  }
  guest::StartConsole();
  guest::DiscoverPlatform();
  guest::Main();
  guest::PowerOff();
}
