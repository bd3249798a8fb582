#include "tests/guest/runtime/clock.h"

#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/cpu.h"
#include "tests/guest/runtime/options.h"

namespace guest {
namespace {

uint64_t FindTscKhz() {
  if (const uint64_t option = NumberOption("tsc_khz", 0); option != 0) {
    return option;
  }
  const KvmClock& clock = ThisCpu().clock;
  if (clock.version == 0) {
    Fail("no-clock-give-tsc_khz");
  }
  // mul and shift turn TSC ticks into nanoseconds: ns = (ticks << shift) * mul >> 32.
  const uint64_t khz = (uint64_t{1'000'000} << 32) / clock.tsc_to_system_mul;
  return clock.tsc_shift < 0 ? khz << -clock.tsc_shift : khz >> clock.tsc_shift;
}

}  // namespace

uint64_t TscKhz() {
  static uint64_t khz;
  if (khz == 0) {
    khz = FindTscKhz();
  }
  return khz;
}

uint64_t ClockNs() {
  const KvmClock& clock = ThisCpu().clock;
  if (clock.version == 0) {
    return 0;
  }
  for (;;) {
    const uint32_t version = clock.version;
    uint64_t ticks = Tsc() - clock.tsc_timestamp;
    ticks = clock.tsc_shift < 0 ? ticks >> -clock.tsc_shift : ticks << clock.tsc_shift;
    const auto scaled = static_cast<unsigned __int128>(ticks) * clock.tsc_to_system_mul;
    const uint64_t now = clock.system_time + static_cast<uint64_t>(scaled >> 32);
    if ((version & 1) == 0 && clock.version == version) {
      return now;
    }
  }
}

uint64_t TscToNs(uint64_t tsc) {
  const uint64_t khz = TscKhz();
  return tsc / khz * 1'000'000 + tsc % khz * 1'000'000 / khz;
}

}  // namespace guest
