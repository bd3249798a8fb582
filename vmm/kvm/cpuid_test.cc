#include "vmm/kvm/cpuid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using Entries = std::vector<kvm_cpuid_entry2>;

constexpr uint32_t kIndexed = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;

// A processor with everything that is of interest here: AVX-512, MPX, protection keys, AMX, VMX, counters.
Entries Intel() {
  return {
      {.function = 0x0, .eax = 0x20, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
      {.function = 0x1, .eax = 0x50657, .ebx = 0x07100800, .ecx = 0xffffffff & ~(1u << 31), .edx = 0xffffffff},
      {.function = 0x4, .index = 0, .flags = kIndexed, .eax = 0xfc1fc121, .ebx = 0x1c0003f, .ecx = 63},
      {.function = 0x4, .index = 3, .flags = kIndexed, .eax = 0xfc1fc163, .ebx = 0x280003f, .ecx = 0xcfff},
      {.function = 0x4, .index = 4, .flags = kIndexed},
      {.function = 0x7,
       .index = 0,
       .flags = kIndexed,
       .eax = 1,
       .ebx = 0xffffffff,
       .ecx = 0xffffffff,
       .edx = 0xffffffff},
      {.function = 0x7, .index = 1, .flags = kIndexed, .eax = 0xffffffff, .edx = 0xffffffff},
      {.function = 0xa, .eax = 0x07300402, .edx = 0x603},
      {.function = 0xb, .index = 0, .flags = kIndexed, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 99},
      {.function = 0xb, .index = 1, .flags = kIndexed, .eax = 6, .ebx = 64, .ecx = 0x201, .edx = 99},
      {.function = 0xd, .index = 0, .flags = kIndexed, .eax = 0x602ff, .ebx = 576, .ecx = 11008},
      {.function = 0xd, .index = 1, .flags = kIndexed, .eax = 0xf, .ebx = 0, .ecx = 0x1900},
      {.function = 0xd, .index = 2, .flags = kIndexed, .eax = 256, .ebx = 576},
      {.function = 0xd, .index = 3, .flags = kIndexed, .eax = 64, .ebx = 960},
      {.function = 0xd, .index = 4, .flags = kIndexed, .eax = 64, .ebx = 1024},
      {.function = 0xd, .index = 5, .flags = kIndexed, .eax = 64, .ebx = 1088},
      {.function = 0xd, .index = 6, .flags = kIndexed, .eax = 512, .ebx = 1152},
      {.function = 0xd, .index = 7, .flags = kIndexed, .eax = 1024, .ebx = 1664},
      {.function = 0xd, .index = 9, .flags = kIndexed, .eax = 8, .ebx = 2688},
      {.function = 0xd, .index = 17, .flags = kIndexed, .eax = 64, .ebx = 2752},
      {.function = 0xd, .index = 18, .flags = kIndexed, .eax = 8192, .ebx = 2816},
      {.function = 0x12, .index = 0, .flags = kIndexed, .eax = 3},
      {.function = 0x14, .index = 0, .flags = kIndexed, .eax = 1, .ebx = 0xf},
      {.function = 0x4000'0000, .eax = 0x4000'0001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d},
      {.function = 0x4000'0001, .eax = 0x01007efb},
      {.function = 0x8000'0000, .eax = 0x8000'0008},
      {.function = 0x8000'0001, .ecx = 0x121, .edx = 0x2c100800},
      {.function = 0x8000'0007, .edx = 0x100},
      {.function = 0x8000'0008, .eax = 0x302e},
  };
}

Entries Amd() {
  return {
      {.function = 0x0, .eax = 0x10, .ebx = 0x68747541, .ecx = 0x444d4163, .edx = 0x69746e65},
      {.function = 0x1, .eax = 0x800f12, .ebx = 0x00100800, .ecx = 0x76d83203, .edx = 0x178bfbff},
      {.function = 0x7, .index = 0, .flags = kIndexed, .ebx = 0x209c01a9},
      {.function = 0xb, .index = 0, .flags = kIndexed},
      {.function = 0xd, .index = 0, .flags = kIndexed, .eax = 7, .ebx = 832, .ecx = 832},
      {.function = 0xd, .index = 2, .flags = kIndexed, .eax = 256, .ebx = 576},
      {.function = 0x8000'0001, .ecx = 0x035c233 | 1 << 2 | 1 << 22 | 1 << 23, .edx = 0x2fd3fbff},
      {.function = 0x8000'0007, .edx = 0x100},
      {.function = 0x8000'0008, .eax = 0x3030, .ecx = 0x7007},
      {.function = 0x8000'000a, .eax = 1, .ebx = 0x8000, .edx = 0x9},
      {.function = 0x8000'001d, .index = 0, .flags = kIndexed, .eax = 0x4121 | 7 << 14},
      {.function = 0x8000'001d, .index = 3, .flags = kIndexed, .eax = 0x163 | 1 << 14},
      {.function = 0x8000'001e, .eax = 5, .ebx = 0x0103, .ecx = 0x0302},
  };
}

std::optional<kvm_cpuid_entry2> Leaf(const Entries& entries, uint32_t function, uint32_t index = 0) {
  for (const kvm_cpuid_entry2& entry : entries) {
    if (entry.function == function && entry.index == index) {
      return entry;
    }
  }
  return std::nullopt;
}

struct TopologyCase {
  uint32_t index;
  uint32_t count;
  uint32_t id_space;
  uint32_t shift;
};

class TopologyTest : public testing::TestWithParam<TopologyCase> {};
INSTANTIATE_TEST_SUITE_P(Sizes, TopologyTest,
                         testing::Values(TopologyCase{0, 1, 1, 0}, TopologyCase{0, 2, 2, 1}, TopologyCase{1, 2, 2, 1},
                                         TopologyCase{2, 3, 4, 2}, TopologyCase{7, 8, 8, 3}, TopologyCase{8, 9, 16, 4},
                                         TopologyCase{31, 32, 32, 5}));

TEST_P(TopologyTest, IntelLeavesAgree) {
  const auto [index, count, id_space, shift] = GetParam();
  const Entries guest = GuestCpuid(Intel(), {.index = index, .count = count});
  const kvm_cpuid_entry2 features = *Leaf(guest, 1);
  EXPECT_EQ(features.ebx >> 24, index);
  EXPECT_EQ(features.ebx >> 16 & 0xff, id_space);
  EXPECT_EQ(features.ebx & 0xffff, 0x0800u);
  EXPECT_EQ(features.edx >> 28 & 1, count > 1 ? 1u : 0u);
  for (const uint32_t function : {0xbu, 0x1fu}) {
    const kvm_cpuid_entry2 threads = *Leaf(guest, function, 0);
    EXPECT_EQ(threads.eax, 0u);
    EXPECT_EQ(threads.ebx, 1u);
    EXPECT_EQ(threads.ecx, 0x100u);
    EXPECT_EQ(threads.edx, index);
    const kvm_cpuid_entry2 cores = *Leaf(guest, function, 1);
    EXPECT_EQ(cores.eax, shift);
    EXPECT_EQ(cores.ebx, count);
    EXPECT_EQ(cores.ecx, 0x201u);
    EXPECT_EQ(cores.edx, index);
    EXPECT_EQ(Leaf(guest, function, 2)->ecx, 2u);
    EXPECT_EQ(Leaf(guest, function, 2)->ebx, 0u);
  }
  // The first level belongs to a core, the third to all.
  EXPECT_EQ(Leaf(guest, 4, 0)->eax, 0x121u | (id_space - 1) << 26);
  EXPECT_EQ(Leaf(guest, 4, 3)->eax, 0x163u | (id_space - 1) << 14 | (id_space - 1) << 26);
  EXPECT_EQ(Leaf(guest, 4, 4)->eax, 0u) << "the end of the list stays the end";
}

TEST_P(TopologyTest, AmdLeavesAgree) {
  const auto [index, count, id_space, shift] = GetParam();
  const Entries guest = GuestCpuid(Amd(), {.index = index, .count = count});
  EXPECT_EQ(Leaf(guest, 0x8000'0008)->ecx, (count - 1) | shift << 12);
  const kvm_cpuid_entry2 topology = *Leaf(guest, 0x8000'001e);
  EXPECT_EQ(topology.eax, index);
  EXPECT_EQ(topology.ebx, index) << "one thread a core";
  EXPECT_EQ(topology.ecx, 0u) << "one node";
  EXPECT_EQ(Leaf(guest, 0x8000'0001)->ecx >> 1 & 1, count > 1 ? 1u : 0u);
  EXPECT_EQ(Leaf(guest, 0x8000'001d, 0)->eax, 0x121u);
  EXPECT_EQ(Leaf(guest, 0x8000'001d, 3)->eax, 0x163u | (id_space - 1) << 14);
  EXPECT_EQ(Leaf(guest, 0xb, 1)->ebx, count);
}

struct FeatureCase {
  const char* name;
  uint32_t function;
  uint32_t index;
  uint32_t kvm_cpuid_entry2::*which;
  int bit;
  bool offered;
};

class FeatureTest : public testing::TestWithParam<FeatureCase> {};
INSTANTIATE_TEST_SUITE_P(Features, FeatureTest,
                         testing::Values(FeatureCase{"hypervisor", 1, 0, &kvm_cpuid_entry2::ecx, 31, true},
                                         FeatureCase{"x2apic", 1, 0, &kvm_cpuid_entry2::ecx, 21, true},
                                         FeatureCase{"xsave", 1, 0, &kvm_cpuid_entry2::ecx, 26, true},
                                         FeatureCase{"avx", 1, 0, &kvm_cpuid_entry2::ecx, 28, true},
                                         FeatureCase{"osxsave", 1, 0, &kvm_cpuid_entry2::ecx, 27, false},
                                         FeatureCase{"vmx", 1, 0, &kvm_cpuid_entry2::ecx, 5, false},
                                         FeatureCase{"monitor", 1, 0, &kvm_cpuid_entry2::ecx, 3, false},
                                         FeatureCase{"pdcm", 1, 0, &kvm_cpuid_entry2::ecx, 15, false},
                                         FeatureCase{"tsc_deadline", 1, 0, &kvm_cpuid_entry2::ecx, 24, false},
                                         FeatureCase{"sgx", 7, 0, &kvm_cpuid_entry2::ebx, 2, false},
                                         FeatureCase{"mpx", 7, 0, &kvm_cpuid_entry2::ebx, 14, false},
                                         FeatureCase{"processor_trace", 7, 0, &kvm_cpuid_entry2::ebx, 25, false},
                                         FeatureCase{"avx2", 7, 0, &kvm_cpuid_entry2::ebx, 5, true},
                                         FeatureCase{"avx512f", 7, 0, &kvm_cpuid_entry2::ebx, 16, true},
                                         FeatureCase{"pku", 7, 0, &kvm_cpuid_entry2::ecx, 3, true},
                                         FeatureCase{"shadow_stack", 7, 0, &kvm_cpuid_entry2::ecx, 7, false},
                                         FeatureCase{"ibt", 7, 0, &kvm_cpuid_entry2::edx, 20, false},
                                         FeatureCase{"arch_lbr", 7, 0, &kvm_cpuid_entry2::edx, 19, false},
                                         FeatureCase{"amx_tile", 7, 0, &kvm_cpuid_entry2::edx, 24, true},
                                         FeatureCase{"invariant_tsc", 0x8000'0007, 0, &kvm_cpuid_entry2::edx, 8, true}),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(FeatureTest, IsOfferedOrHidden) {
  const FeatureCase& feature = GetParam();
  const Entries guest = GuestCpuid(Intel(), {});
  EXPECT_EQ((*Leaf(guest, feature.function, feature.index)).*feature.which >> feature.bit & 1,
            feature.offered ? 1u : 0u);
}

TEST(CpuidTest, TscDeadlineComesWithTheCapability) {
  EXPECT_NE(Leaf(GuestCpuid(Intel(), {.tsc_deadline = true}), 1)->ecx & 1u << 24, 0u);
}

TEST(CpuidTest, NestedVirtualisationOfAmdIsHidden) {
  const Entries guest = GuestCpuid(Amd(), {});
  EXPECT_EQ(Leaf(guest, 0x8000'0001)->ecx & (1u << 2 | 1u << 23), 0u) << "SVM, performance counters";
  EXPECT_NE(Leaf(guest, 0x8000'0001)->ecx & 1u << 22, 0u) << "topology extensions stay";
  EXPECT_EQ(Leaf(guest, 0x8000'000a)->edx, 0u);
}

TEST(CpuidTest, AmdGuestRecoversFromLostMemoryAndMovesOnlyWhereItStillCan) {
  const Entries guest = GuestCpuid(Amd(), {});
  EXPECT_EQ(Leaf(guest, 0x8000'0007)->ebx, 3u) << "SUCCOR, overflow recovery";
  EXPECT_TRUE(CanRecoverFromErrors(guest));
  EXPECT_FALSE(CanRecoverFromErrors(Amd())) << "as of a guest that booted when that was not told";
  EXPECT_EQ(Leaf(GuestCpuid(Intel(), {}), 0x8000'0007)->ebx, 0u);
  Entries host = guest;
  EXPECT_TRUE(CheckCpuidFits(guest, host).ok());
  for (kvm_cpuid_entry2& entry : host) {
    entry.ebx &= entry.function == 0x8000'0007 ? ~2u : ~0u;
  }
  EXPECT_NE(CheckCpuidFits(guest, host).message().find("succor"), absl::string_view::npos);
}

TEST(CpuidTest, LeavesOfWhatIsHiddenAreEmptyAndKvmsStay) {
  const Entries guest = GuestCpuid(Intel(), {});
  EXPECT_EQ(Leaf(guest, 0xa)->eax, 0u);
  EXPECT_EQ(Leaf(guest, 0x12)->eax, 0u);
  EXPECT_EQ(Leaf(guest, 0x14)->eax, 0u);
  EXPECT_EQ(Leaf(guest, 0x4000'0000)->ebx, 0x4b4d564bu);
  EXPECT_EQ(Leaf(guest, 0x4000'0001)->eax, 0x01003aebu) << "without asynchronous page faults";
}

TEST(CpuidTest, XsaveLeafHasNoHiddenComponentsAndTheRightSize) {
  const Entries guest = GuestCpuid(Intel(), {});
  EXPECT_EQ(Leaf(guest, 0xd, 0)->eax, 0x602e7u) << "no MPX";
  EXPECT_FALSE(Leaf(guest, 0xd, 3).has_value());
  EXPECT_FALSE(Leaf(guest, 0xd, 4).has_value());
  EXPECT_TRUE(Leaf(guest, 0xd, 9).has_value());
  EXPECT_EQ(Leaf(guest, 0xd, 0)->ecx, 11008u);
  EXPECT_EQ(Leaf(guest, 0xd, 1)->ecx, 0u) << "no supervisor components";
}

TEST(CpuidTest, FeaturesGoWithTheirXsaveComponent) {
  Entries supported = Intel();
  for (kvm_cpuid_entry2& entry : supported) {
    if (entry.function == 0xd && entry.index == 0) {
      entry.eax = 0x27;  // x87, SSE, AVX, a part of AVX-512
    }
  }
  const Entries guest = GuestCpuid(supported, {});
  EXPECT_EQ(Leaf(guest, 0xd, 0)->eax, 0x7u);
  EXPECT_EQ(Leaf(guest, 0xd, 0)->ecx, 832u);
  EXPECT_NE(Leaf(guest, 1)->ecx & 1u << 28, 0u) << "AVX stays";
  EXPECT_EQ(Leaf(guest, 7)->ebx & 1u << 16, 0u) << "AVX-512 goes";
  EXPECT_EQ(Leaf(guest, 7)->ecx & 1u << 3, 0u) << "protection keys go";
  EXPECT_EQ(Leaf(guest, 7)->edx & 1u << 24, 0u) << "AMX goes";
}

TEST(CpuidTest, WithoutXsaveItsLeafIsEmpty) {
  Entries supported = Intel();
  for (kvm_cpuid_entry2& entry : supported) {
    if (entry.function == 1) {
      entry.ecx &= ~(1u << 26);
    }
  }
  const Entries guest = GuestCpuid(supported, {});
  EXPECT_EQ(Leaf(guest, 0xd, 0)->eax, 0u);
  EXPECT_EQ(Leaf(guest, 0xd, 2)->eax, 0u);
  EXPECT_EQ(Leaf(guest, 1)->ecx & 1u << 28, 0u) << "AVX needs it";
}

TEST(CpuidTest, GuestFitsItsOwnHost) {
  const Entries guest = GuestCpuid(Intel(), {.index = 3, .count = 4});
  EXPECT_EQ(CheckCpuidFits(guest, GuestCpuid(Intel(), {.index = 3, .count = 4})).ToString(), "OK");
}

TEST(CpuidTest, MissingFeatureIsNamed) {
  const Entries guest = GuestCpuid(Intel(), {});
  Entries host = guest;
  for (kvm_cpuid_entry2& entry : host) {
    if (entry.function == 7 && entry.index == 0) {
      entry.ebx &= ~(1u << 16);
    }
  }
  EXPECT_THAT(CheckCpuidFits(guest, host).message(), HasSubstr("avx512f (CPUID 0x7.0 ebx bit 16)"));
  EXPECT_TRUE(CheckCpuidFits(host, guest).ok()) << "more than the guest knows does no harm";
}

TEST(CpuidTest, LeafThatTheHostLacksIsAMissingFeature) {
  const Entries guest = GuestCpuid(Intel(), {});
  Entries host = guest;
  std::erase_if(host, [](const kvm_cpuid_entry2& entry) { return entry.function == 7 && entry.index == 1; });
  EXPECT_THAT(CheckCpuidFits(guest, host).message(), HasSubstr("CPUID 0x7.1"));
}

TEST(CpuidTest, AnotherVendorAndWiderAddressesAreRefused) {
  const Entries intel = GuestCpuid(Intel(), {});
  EXPECT_THAT(CheckCpuidFits(intel, GuestCpuid(Amd(), {})).message(), HasSubstr("another vendor"));
  Entries narrow = intel;
  for (kvm_cpuid_entry2& entry : narrow) {
    if (entry.function == 0x8000'0008) {
      entry.eax = 0x3024;
    }
  }
  EXPECT_THAT(CheckCpuidFits(intel, narrow).message(), HasSubstr("46 bits"));
  EXPECT_TRUE(CheckCpuidFits(narrow, intel).ok());
  EXPECT_EQ(PhysicalAddressBits(narrow), 36u);
  EXPECT_THAT(CheckCpuidFits({}, intel).message(), HasSubstr("leaf 0"));
}

}  // namespace
}  // namespace ferrite
