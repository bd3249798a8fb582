// What a guest may do wrong, or asks of the machine, by the option do=:
//   triple-fault   no handler for an exception
//   power-off, reset
//   unknown-io     reads and writes addresses and ports that no device has; all ones come back
//   ring0-halt     privileged instruction in ring 3: a triple fault, too
//   hole           writes and reads memory past the end of RAM, where nothing is
#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/options.h"
#include "tests/guest/runtime/platform.h"
#include "tests/guest/runtime/smp.h"

namespace guest {
namespace {

constexpr uint64_t kNoDevice = 0xfd00'0000;
constexpr uint16_t kNoPort = 0x1e88;

void UnknownIo() {
  WriteMmio<uint32_t>(kNoDevice, 0x12345678);
  Out32(kNoPort, 0x12345678);
  Line("unknown-io")
      .AddHex("mmio8", ReadMmio<uint8_t>(kNoDevice + 1))
      .AddHex("mmio16", ReadMmio<uint16_t>(kNoDevice + 2))
      .AddHex("mmio32", ReadMmio<uint32_t>(kNoDevice + 4))
      .AddHex("mmio64", ReadMmio<uint64_t>(kNoDevice + 8))
      .AddHex("pio8", In8(kNoPort))
      .AddHex("pio16", In16(kNoPort))
      .AddHex("pio32", In32(kNoPort))
      .Send();
}

// The first address past RAM below 4 GiB: mapped by the page tables, with nothing there.
void Hole() {
  uint64_t end = 0;
  for (const Range& range : FreeMemory()) {
    if (range.begin < uint64_t{1} << 32) {
      end = range.end;
    }
  }
  WriteMmio<uint64_t>(end, 0x12345678);
  Line("hole").AddHex("address", end).AddHex("read", ReadMmio<uint64_t>(end)).Send();
}

}  // namespace

void Main() {
  Line("ready").Send();
  if (OptionIs("do", "triple-fault", "")) {
    TripleFault();
  } else if (OptionIs("do", "reset", "")) {
    Reset();
  } else if (OptionIs("do", "unknown-io", "")) {
    UnknownIo();
  } else if (OptionIs("do", "hole", "")) {
    Hole();
  } else if (OptionIs("do", "ring0-halt", "")) {
    asm volatile("hlt");
  } else if (!OptionIs("do", "power-off", "")) {
    Fail("do-what");
  }
}

}  // namespace guest
