#include "tests/guest/runtime/planted.h"

#include "tests/guest/runtime/cpu.h"
#include "tests/guest/runtime/pages.h"

namespace guest {
namespace {

constexpr uint64_t kApicSpurious = 0xfee000f0;
constexpr uint64_t kApicLvtError = 0xfee00370;
constexpr uint64_t kIoApicSelect = 0xfec00000;
constexpr uint64_t kIoApicWindow = 0xfec00010;
constexpr uint32_t kIoApicRedirection = 0x10 + 2 * 22;  // of pin 22, which nothing uses
constexpr uint16_t kPicMasterMask = 0x21;
constexpr uint16_t kPicSlaveMask = 0xa1;

constexpr uint32_t kMasked = 0x10000;
constexpr uint8_t kMasterMask = 0xfa;
constexpr uint8_t kSlaveMask = 0xf5;

struct alignas(16) Vectors {
  uint64_t words[32];
};

#define GUEST_FOR_VECTORS(op) \
  op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
#define GUEST_LOAD_VECTOR(n) "movdqa 16*" #n "(%[at]), %%xmm" #n "\n"
#define GUEST_STORE_VECTOR(n) "movdqa %%xmm" #n ", 16*" #n "(%[at])\n"

uint64_t VectorWord(uint64_t index) {
  return ContentWord({.seed = 77, .page = ThisCpu().index, .generation = 1}, index);
}

uint32_t SpuriousValue() { return 0x1e0 + ThisCpu().index; }  // enabled; vector 0xe0 + index
uint32_t LvtErrorValue() { return kMasked | (0xa0 + ThisCpu().index); }
uint32_t RedirectionValue() { return kMasked | 0x7b; }

void WriteIoApic(uint32_t index, uint32_t value) {
  WriteMmio<uint32_t>(kIoApicSelect, index);
  WriteMmio<uint32_t>(kIoApicWindow, value);
}

uint32_t ReadIoApic(uint32_t index) {
  WriteMmio<uint32_t>(kIoApicSelect, index);
  return ReadMmio<uint32_t>(kIoApicWindow);
}

}  // namespace

void PlantState() {
  Vectors vectors;
  for (uint64_t i = 0; i < 32; ++i) {
    vectors.words[i] = VectorWord(i);
  }
  asm volatile(GUEST_FOR_VECTORS(GUEST_LOAD_VECTOR) : : [at] "r"(&vectors), "m"(vectors));
  WriteMmio(kApicSpurious, SpuriousValue());
  WriteMmio(kApicLvtError, LvtErrorValue());
  if (ThisCpu().index == 0) {
    WriteIoApic(kIoApicRedirection, RedirectionValue());
    Out8(kPicMasterMask, kMasterMask);
    Out8(kPicSlaveMask, kSlaveMask);
  }
}

const char* CheckPlantedState() {
  Vectors vectors;
  asm volatile(GUEST_FOR_VECTORS(GUEST_STORE_VECTOR) : "=m"(vectors) : [at] "r"(&vectors));
  for (uint64_t i = 0; i < 32; ++i) {
    if (vectors.words[i] != VectorWord(i)) {
      return "vector-registers";
    }
  }
  if (ReadMmio<uint32_t>(kApicSpurious) != SpuriousValue() || ReadMmio<uint32_t>(kApicLvtError) != LvtErrorValue()) {
    return "local-apic";
  }
  if (ThisCpu().index == 0) {
    if (ReadIoApic(kIoApicRedirection) != RedirectionValue()) {
      return "io-apic";
    }
    if (In8(kPicMasterMask) != kMasterMask || In8(kPicSlaveMask) != kSlaveMask) {
      return "pic-masks";
    }
  }
  return nullptr;
}

}  // namespace guest
