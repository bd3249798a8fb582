#include "devices/power/i8042_reset.h"

#include <algorithm>
#include <utility>

namespace ferrite {

I8042Reset::I8042Reset(std::function<void()> reset) : reset_(std::move(reset)) {}

void I8042Reset::Read(uint64_t offset, std::span<uint8_t> data) {
  const bool exists = data.size() == 1 && offset < kRegisters;
  std::fill(data.begin(), data.end(), exists ? uint8_t{0} : uint8_t{0xff});
}

void I8042Reset::Write(uint64_t offset, std::span<const uint8_t> data) {
  if (data.size() == 1 && offset == 0 && data[0] == kResetCommand) {
    reset_();
  }
}

}  // namespace ferrite
