#include "tests/guest/runtime/console.h"

#include "tests/guest/runtime/atomic.h"
#include "tests/guest/runtime/cpu.h"
#include "tests/guest/runtime/platform.h"

namespace guest {
namespace {

constexpr uint16_t kData = 0x3f8;
constexpr uint16_t kLineStatus = 0x3fd;
constexpr uint8_t kDataReady = 1;

Atomic<bool> console_busy;

}  // namespace

void Line::Append(const char* text) {
  while (*text != '\0') {
    Append(*text++);
  }
}

void Line::AppendName(const char* name) {
  if (length_ != 0) {
    Append(' ');
  }
  Append(name);
  Append('=');
}

Line& Line::Add(const char* name, const char* value) {
  AppendName(name);
  Append(value);
  return *this;
}

Line& Line::Add(const char* name, uint64_t value) {
  AppendName(name);
  char digits[20];
  int count = 0;
  do {
    digits[count++] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  while (count > 0) {
    Append(digits[--count]);
  }
  return *this;
}

Line& Line::AddHex(const char* name, uint64_t value) {
  AppendName(name);
  Append("0x");
  bool started = false;
  for (int shift = 60; shift >= 0; shift -= 4) {
    const unsigned digit = value >> shift & 15;
    started = started || digit != 0 || shift == 0;
    if (started) {
      Append("0123456789abcdef"[digit]);
    }
  }
  return *this;
}

void Line::Send() {
  Cpu& cpu = ThisCpu();
  Add("cpu", cpu.index);
  Add("tsc", Tsc());
  while (console_busy.Exchange(true)) {
    cpu.Heartbeat();
    Relax();
  }
  text_[length_++] = '\n';
  for (uint32_t i = 0; i < length_; ++i) {
    Out8(kData, static_cast<uint8_t>(text_[i]));
    cpu.Heartbeat();
  }
  console_busy.Store(false);
}

void StartConsole() { Out8(kData, '\n'); }

int ReadCommand() {
  if ((In8(kLineStatus) & kDataReady) == 0) {
    return -1;
  }
  return In8(kData);
}

void Fail(const char* reason, uint64_t value) {
  Line("fail").Add("reason", reason).AddHex("value", value).Send();
  PowerOff();
}

}  // namespace guest
