#include "vmm/kvm/cpuid.h"

#include <algorithm>
#include <bit>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ferrite {
namespace {

using Entries = std::vector<kvm_cpuid_entry2>;

constexpr uint32_t Bit(int number) { return uint32_t{1} << number; }
constexpr uint32_t Field(uint32_t value, int shift) { return value << shift; }

enum Register { kEax, kEbx, kEcx, kEdx };
constexpr absl::string_view kRegisterNames[] = {"eax", "ebx", "ecx", "edx"};

uint32_t& At(kvm_cpuid_entry2& entry, Register which) {
  switch (which) {
    case kEax:
      return entry.eax;
    case kEbx:
      return entry.ebx;
    case kEcx:
      return entry.ecx;
    case kEdx:
      break;
  }
  return entry.edx;
}
uint32_t At(const kvm_cpuid_entry2& entry, Register which) { return At(const_cast<kvm_cpuid_entry2&>(entry), which); }

// xsave components (bits of XCR0) and what needs them.
constexpr uint64_t kXcr0X87Sse = 0x3;
constexpr uint64_t kXcr0Avx = 0x4;
constexpr uint64_t kXcr0Avx512 = 0xe0;
constexpr uint64_t kXcr0Pkru = 0x200;
constexpr uint64_t kXcr0Amx = 0x6'0000;
constexpr uint64_t kXcr0Known = kXcr0X87Sse | kXcr0Avx | kXcr0Avx512 | kXcr0Pkru | kXcr0Amx;

struct FeatureBits {
  uint32_t function;
  uint32_t index;
  Register which;
  uint32_t bits;
};

// Never offered. Each has state outside of what a vCPU saves, or a device behind it that is not there.
constexpr FeatureBits kHidden[] = {
    // DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, PDCM (performance counters), OSXSAVE (KVM keeps it itself)
    {0x1, 0, kEcx, Bit(2) | Bit(3) | Bit(4) | Bit(5) | Bit(6) | Bit(7) | Bit(15) | Bit(27)},
    {0x1, 0, kEdx, Bit(21)},                                         // debug store
    {0x7, 0, kEbx, Bit(2) | Bit(12) | Bit(14) | Bit(15) | Bit(25)},  // SGX, RDT-M, MPX, RDT-A, processor trace
    {0x7, 0, kEcx, Bit(4) | Bit(7) | Bit(30)},  // OSPKE (KVM keeps it itself), shadow stack, SGX_LC
    {0x7, 0, kEdx, Bit(19) | Bit(20)},          // architectural LBR, indirect branch tracking
    {0x7, 1, kEdx, Bit(18) | Bit(21)},          // CET supervisor shadow stack, APX
    {0x8000'0001, 0, kEcx,
     Bit(2) | Bit(10) | Bit(12) | Bit(15) | Bit(23) | Bit(24) | Bit(28)},  // SVM, IBS, SKINIT,
                                                                           // LWP, performance counters
    // KVM's asynchronous page faults: those under way cannot be saved, and who waits for a page is to be seen waiting.
    {0x4000'0001, 0, kEax, Bit(4) | Bit(10) | Bit(14)},
};

// Leaves that describe what is hidden: performance counters, RDT, SGX, processor trace, LBR, SVM, IBS, SEV, AMD's
// performance counters.
constexpr uint32_t kClearedLeaves[] = {0x5,  0xa,  0xf,         0x10,        0x12,        0x14,
                                       0x1c, 0x23, 0x8000'000a, 0x8000'001b, 0x8000'001f, 0x8000'0022};

struct XsaveDependent {
  uint64_t components;
  FeatureBits feature;
};
constexpr XsaveDependent kXsaveDependents[] = {
    {kXcr0Avx, {0x1, 0, kEcx, Bit(12) | Bit(28) | Bit(29)}},  // FMA, AVX, F16C
    {kXcr0Avx, {0x7, 0, kEbx, Bit(5)}},                       // AVX2
    {kXcr0Avx, {0x7, 0, kEcx, Bit(9) | Bit(10)}},             // VAES, VPCLMULQDQ
    // AVX-VNNI, AVX-IFMA; SHA512, SM3, SM4
    {kXcr0Avx, {0x7, 1, kEax, Bit(0) | Bit(1) | Bit(2) | Bit(4) | Bit(23)}},
    {kXcr0Avx, {0x7, 1, kEdx, Bit(4) | Bit(5) | Bit(10)}},  // AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16
    {kXcr0Avx, {0x8000'0001, 0, kEcx, Bit(11) | Bit(16)}},  // XOP, FMA4
    // AVX512: F, DQ, IFMA, PF, ER, CD, BW, VL; VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ; 4VNNIW, 4FMAPS, VP2INTERSECT, FP16
    {kXcr0Avx512, {0x7, 0, kEbx, Bit(16) | Bit(17) | Bit(21) | Bit(26) | Bit(27) | Bit(28) | Bit(30) | Bit(31)}},
    {kXcr0Avx512, {0x7, 0, kEcx, Bit(1) | Bit(6) | Bit(11) | Bit(12) | Bit(14)}},
    {kXcr0Avx512, {0x7, 0, kEdx, Bit(2) | Bit(3) | Bit(8) | Bit(23)}},
    {kXcr0Avx512, {0x7, 1, kEax, Bit(5)}},                    // AVX512-BF16
    {kXcr0Avx512, {0x7, 1, kEdx, Bit(19)}},                   // AVX10
    {kXcr0Pkru, {0x7, 0, kEcx, Bit(3)}},                      // PKU
    {kXcr0Amx, {0x7, 0, kEdx, Bit(22) | Bit(24) | Bit(25)}},  // AMX-BF16, AMX-TILE, AMX-INT8
    {kXcr0Amx, {0x7, 1, kEax, Bit(21)}},                      // AMX-FP16
    {kXcr0Amx, {0x7, 1, kEdx, Bit(8)}},                       // AMX-COMPLEX
};

const kvm_cpuid_entry2* Find(std::span<const kvm_cpuid_entry2> entries, uint32_t function, uint32_t index = 0) {
  for (const kvm_cpuid_entry2& entry : entries) {
    const bool indexed = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
    if (entry.function == function && (indexed ? entry.index == index : index == 0)) {
      return &entry;
    }
  }
  return nullptr;
}

kvm_cpuid_entry2* Find(Entries& entries, uint32_t function, uint32_t index = 0) {
  return const_cast<kvm_cpuid_entry2*>(Find(std::span<const kvm_cpuid_entry2>(entries), function, index));
}

void Remove(Entries& entries, uint32_t function) {
  std::erase_if(entries, [function](const kvm_cpuid_entry2& entry) { return entry.function == function; });
}

void ClearBits(Entries& entries, const FeatureBits& feature) {
  if (kvm_cpuid_entry2* entry = Find(entries, feature.function, feature.index)) {
    At(*entry, feature.which) &= ~feature.bits;
  }
}

// CPUID 0x80000007 EBX: overflow recovery, SUCCOR.
constexpr uint32_t kErrorRecovery = 3;

// The bits of an APIC id that number `count` cores.
uint32_t CoreIdBits(uint32_t count) { return std::bit_width(count - 1); }

void HideFeatures(Entries& entries) {
  for (const FeatureBits& feature : kHidden) {
    ClearBits(entries, feature);
  }
  for (kvm_cpuid_entry2& entry : entries) {
    if (std::find(std::begin(kClearedLeaves), std::end(kClearedLeaves), entry.function) != std::end(kClearedLeaves)) {
      entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
    }
  }
}

// Leaf 0xD and the features that need its components say the same.
void MakeXsaveConsistent(Entries& entries) {
  const kvm_cpuid_entry2* features = Find(entries, 1);
  const bool xsave = features != nullptr && (features->ecx & Bit(26)) != 0;
  kvm_cpuid_entry2* summary = Find(entries, 0xd, 0);
  uint64_t components = 0;
  if (xsave && summary != nullptr) {
    components = (uint64_t{summary->edx} << 32 | summary->eax) & kXcr0Known;
    // The AVX-512 parts and the AMX parts are of use only together; AVX-512 builds on AVX.
    for (const uint64_t group : {kXcr0Avx512, kXcr0Amx}) {
      if ((components & group) != group) {
        components &= ~group;
      }
    }
    if ((components & kXcr0Avx) == 0) {
      components &= ~kXcr0Avx512;
    }
  }
  for (const XsaveDependent& dependent : kXsaveDependents) {
    if ((components & dependent.components) != dependent.components) {
      ClearBits(entries, dependent.feature);
    }
  }
  if (components == 0) {
    for (kvm_cpuid_entry2& entry : entries) {
      if (entry.function == 0xd) {
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
      }
    }
    return;
  }
  std::erase_if(entries, [components](const kvm_cpuid_entry2& entry) {
    return entry.function == 0xd && entry.index >= 2 &&
           (entry.index >= 64 || (components & (uint64_t{1} << entry.index)) == 0);
  });
  // The size of the area with everything in it; ebx, the size with what is enabled, is kept by KVM.
  constexpr uint32_t kLegacyAndHeaderBytes = 576;
  uint32_t bytes = kLegacyAndHeaderBytes;
  for (const kvm_cpuid_entry2& entry : entries) {
    if (entry.function == 0xd && entry.index >= 2) {
      bytes = std::max(bytes, entry.ebx + entry.eax);
    }
  }
  summary = Find(entries, 0xd, 0);
  summary->eax = static_cast<uint32_t>(components);
  summary->edx = static_cast<uint32_t>(components >> 32);
  summary->ecx = bytes;
  if (kvm_cpuid_entry2* extended = Find(entries, 0xd, 1)) {
    // No supervisor components: processor trace, shadow stacks and the like are hidden.
    extended->ecx = 0;
    extended->edx = 0;
  }
}

// Leaf 0xB or 0x1F: a level of one thread, a level of all cores, the end.
void SetExtendedTopology(Entries& entries, uint32_t function, const GuestCpu& cpu) {
  constexpr uint32_t kThreadLevel = 1;
  constexpr uint32_t kCoreLevel = 2;
  Remove(entries, function);
  const auto add = [&](uint32_t index, uint32_t shift, uint32_t processors, uint32_t level) {
    entries.push_back({.function = function,
                       .index = index,
                       .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                       .eax = shift,
                       .ebx = processors,
                       .ecx = index | Field(level, 8),
                       .edx = cpu.index});
  };
  add(0, 0, 1, kThreadLevel);
  add(1, CoreIdBits(cpu.count), cpu.count, kCoreLevel);
  add(2, 0, 0, 0);
}

// Leaf 4 (Intel) or 0x8000001D (AMD): who shares each cache. Levels 1 and 2 belong to a core, level 3 to the package.
void SetCacheSharing(Entries& entries, uint32_t function, const GuestCpu& cpu) {
  constexpr uint32_t kSharingMask = Field(0xfff, 14);
  constexpr uint32_t kCoresMask = Field(0x3f, 26);
  const uint32_t id_space = uint32_t{1} << CoreIdBits(cpu.count);
  for (kvm_cpuid_entry2& entry : entries) {
    if (entry.function != function || (entry.eax & 0x1f) == 0) {
      continue;
    }
    const uint32_t level = entry.eax >> 5 & 0x7;
    entry.eax &= ~kSharingMask;
    entry.eax |= Field(level >= 3 ? id_space - 1 : 0, 14);
    if (function == 0x4) {
      entry.eax &= ~kCoresMask;
      entry.eax |= Field(id_space - 1, 26);
    }
  }
}

void SetTopology(Entries& entries, const GuestCpu& cpu) {
  const uint32_t id_space = uint32_t{1} << CoreIdBits(cpu.count);
  if (kvm_cpuid_entry2* features = Find(entries, 1)) {
    features->ebx &= 0xffff;
    features->ebx |= Field(cpu.index, 24) | Field(id_space, 16);
    features->edx &= ~Bit(28);
    if (cpu.count > 1) {
      features->edx |= Bit(28);  // HTT: ebx[23:16] is valid
    }
  }
  const kvm_cpuid_entry2* base = Find(entries, 0);
  const uint32_t max_leaf = base == nullptr ? 0 : base->eax;
  SetCacheSharing(entries, 0x4, cpu);
  for (const uint32_t function : {0xbu, 0x1fu}) {
    if (max_leaf >= function) {
      SetExtendedTopology(entries, function, cpu);
    }
  }
  if (!IsAmd(entries)) {
    return;
  }
  if (kvm_cpuid_entry2* extended = Find(entries, 0x8000'0001)) {
    extended->ecx &= ~Bit(1);
    if (cpu.count > 1) {
      extended->ecx |= Bit(1);  // CmpLegacy: the processors of leaf 1 are cores
    }
  }
  if (kvm_cpuid_entry2* sizes = Find(entries, 0x8000'0008)) {
    sizes->ecx &= ~0xf0ffu;
    sizes->ecx |= (cpu.count - 1) | Field(CoreIdBits(cpu.count), 12);
  }
  SetCacheSharing(entries, 0x8000'001d, cpu);
  if (kvm_cpuid_entry2* topology = Find(entries, 0x8000'001e)) {
    topology->eax = cpu.index;
    topology->ebx = cpu.index;  // core id; one thread in it
    topology->ecx = 0;          // node 0, the only one
    topology->edx = 0;
  }
}

// Registers whose set bits are features; a guest must find every one that it was told of.
struct FeatureRegister {
  uint32_t function;
  uint32_t index;
  Register which;
};
constexpr FeatureRegister kFeatureRegisters[] = {
    {0x1, 0, kEcx},         {0x1, 0, kEdx},         {0x7, 0, kEbx},         {0x7, 0, kEcx},
    {0x7, 0, kEdx},         {0x7, 1, kEax},         {0x7, 1, kEbx},         {0x7, 1, kEdx},
    {0x7, 2, kEdx},         {0xd, 0, kEax},         {0xd, 0, kEdx},         {0xd, 1, kEax},
    {0x4000'0001, 0, kEax}, {0x8000'0001, 0, kEcx}, {0x8000'0001, 0, kEdx}, {0x8000'0007, 0, kEbx},
    {0x8000'0007, 0, kEdx}, {0x8000'0008, 0, kEbx}, {0x8000'0021, 0, kEax},
};

struct FeatureName {
  uint32_t function;
  uint32_t index;
  Register which;
  int bit;
  absl::string_view name;
};
// The names that people search for; all others are told by leaf, register and bit.
constexpr FeatureName kFeatureNames[] = {
    {0x1, 0, kEcx, 0, "sse3"},
    {0x1, 0, kEcx, 9, "ssse3"},
    {0x1, 0, kEcx, 12, "fma"},
    {0x1, 0, kEcx, 13, "cx16"},
    {0x1, 0, kEcx, 17, "pcid"},
    {0x1, 0, kEcx, 19, "sse4_1"},
    {0x1, 0, kEcx, 20, "sse4_2"},
    {0x1, 0, kEcx, 21, "x2apic"},
    {0x1, 0, kEcx, 22, "movbe"},
    {0x1, 0, kEcx, 23, "popcnt"},
    {0x1, 0, kEcx, 24, "tsc_deadline_timer"},
    {0x1, 0, kEcx, 25, "aes"},
    {0x1, 0, kEcx, 26, "xsave"},
    {0x1, 0, kEcx, 28, "avx"},
    {0x1, 0, kEcx, 29, "f16c"},
    {0x1, 0, kEcx, 30, "rdrand"},
    {0x7, 0, kEbx, 0, "fsgsbase"},
    {0x7, 0, kEbx, 3, "bmi1"},
    {0x7, 0, kEbx, 5, "avx2"},
    {0x7, 0, kEbx, 7, "smep"},
    {0x7, 0, kEbx, 8, "bmi2"},
    {0x7, 0, kEbx, 9, "erms"},
    {0x7, 0, kEbx, 10, "invpcid"},
    {0x7, 0, kEbx, 11, "rtm"},
    {0x7, 0, kEbx, 16, "avx512f"},
    {0x7, 0, kEbx, 18, "rdseed"},
    {0x7, 0, kEbx, 19, "adx"},
    {0x7, 0, kEbx, 20, "smap"},
    {0x7, 0, kEbx, 29, "sha_ni"},
    {0x7, 0, kEcx, 2, "umip"},
    {0x7, 0, kEcx, 3, "pku"},
    {0x7, 0, kEcx, 16, "la57"},
    {0x7, 0, kEcx, 22, "rdpid"},
    {0x7, 0, kEdx, 24, "amx_tile"},
    {0x7, 0, kEdx, 26, "spec_ctrl"},
    {0xd, 1, kEax, 0, "xsaveopt"},
    {0xd, 1, kEax, 1, "xsavec"},
    {0xd, 1, kEax, 3, "xsaves"},
    {0x8000'0001, 0, kEcx, 6, "sse4a"},
    {0x8000'0001, 0, kEdx, 20, "nx"},
    {0x8000'0001, 0, kEdx, 26, "pdpe1gb"},
    {0x8000'0001, 0, kEdx, 27, "rdtscp"},
    {0x8000'0007, 0, kEbx, 0, "overflow_recov"},
    {0x8000'0007, 0, kEbx, 1, "succor"},
    {0x8000'0007, 0, kEdx, 8, "invariant_tsc"},
};

std::string DescribeFeature(const FeatureRegister& where, int bit) {
  const std::string place = absl::StrCat("CPUID 0x", absl::Hex(where.function), ".", where.index, " ",
                                         kRegisterNames[where.which], " bit ", bit);
  for (const FeatureName& name : kFeatureNames) {
    if (name.function == where.function && name.index == where.index && name.which == where.which && name.bit == bit) {
      return absl::StrCat(name.name, " (", place, ")");
    }
  }
  return place;
}

}  // namespace

// "GenuineIntel" is spread over ebx, edx, ecx of leaf 0; AMD and Hygon share what matters here.
bool IsAmd(std::span<const kvm_cpuid_entry2> cpuid) {
  constexpr uint32_t kAuthenticAmd = 0x68747541;  // "Auth"
  constexpr uint32_t kHygonGenuine = 0x6f677948;  // "Hygo"
  const kvm_cpuid_entry2* leaf = Find(cpuid, 0);
  return leaf != nullptr && (leaf->ebx == kAuthenticAmd || leaf->ebx == kHygonGenuine);
}

bool CanRecoverFromErrors(std::span<const kvm_cpuid_entry2> cpuid) {
  const kvm_cpuid_entry2* errors = Find(cpuid, 0x8000'0007);
  return errors != nullptr && (errors->ebx & kErrorRecovery) == kErrorRecovery;
}

std::vector<kvm_cpuid_entry2> GuestCpuid(std::span<const kvm_cpuid_entry2> supported, const GuestCpu& cpu) {
  Entries entries(supported.begin(), supported.end());
  HideFeatures(entries);
  MakeXsaveConsistent(entries);
  SetTopology(entries, cpu);
  if (kvm_cpuid_entry2* features = Find(entries, 1)) {
    features->ecx |= Bit(31);  // there is a hypervisor
    features->ecx &= ~Bit(24);
    if (cpu.tsc_deadline) {
      features->ecx |= Bit(24);
    }
  }
  // Without these Linux panics at a machine check that it could recover from. KVM leaves both to the monitor.
  if (kvm_cpuid_entry2* errors = Find(entries, 0x8000'0007); errors != nullptr && IsAmd(entries)) {
    errors->ebx |= kErrorRecovery;
  }
  return entries;
}

absl::Status CheckCpuidFits(std::span<const kvm_cpuid_entry2> guest, std::span<const kvm_cpuid_entry2> host) {
  const kvm_cpuid_entry2* guest_vendor = Find(guest, 0);
  const kvm_cpuid_entry2* host_vendor = Find(host, 0);
  if (guest_vendor == nullptr || host_vendor == nullptr) {
    return absl::InvalidArgumentError("CPUID leaf 0 is missing");
  }
  if (guest_vendor->ebx != host_vendor->ebx || guest_vendor->ecx != host_vendor->ecx ||
      guest_vendor->edx != host_vendor->edx) {
    return absl::FailedPreconditionError("the guest runs on a processor of another vendor than this host's");
  }
  for (const FeatureRegister& where : kFeatureRegisters) {
    const kvm_cpuid_entry2* told = Find(guest, where.function, where.index);
    if (told == nullptr) {
      continue;
    }
    const kvm_cpuid_entry2* have = Find(host, where.function, where.index);
    const uint32_t missing = At(*told, where.which) & ~(have == nullptr ? 0 : At(*have, where.which));
    if (missing != 0) {
      return absl::FailedPreconditionError(absl::StrCat("the guest uses the processor feature ",
                                                        DescribeFeature(where, std::countr_zero(missing)),
                                                        ", which this host does not offer"));
    }
  }
  if (PhysicalAddressBits(guest) > PhysicalAddressBits(host)) {
    return absl::FailedPreconditionError(absl::StrCat("the guest was told of ", PhysicalAddressBits(guest),
                                                      " bits of physical address, this host has ",
                                                      PhysicalAddressBits(host)));
  }
  return absl::OkStatus();
}

uint32_t PhysicalAddressBits(std::span<const kvm_cpuid_entry2> cpuid) {
  const kvm_cpuid_entry2* leaf = Find(cpuid, 0x8000'0008);
  return leaf == nullptr ? 36 : leaf->eax & 0xff;
}

}  // namespace ferrite
