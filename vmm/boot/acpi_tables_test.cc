#include "vmm/boot/acpi_tables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <string>
#include <vector>

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using Bytes = std::vector<uint8_t>;

AcpiPlatform TwoCpusSerialAndTwoDevices() {
  AcpiPlatform platform;
  platform.cpus = 2;
  platform.sleep_control_port = 0x600;
  platform.sleep_status_port = 0x601;
  platform.reset_port = 0x602;
  platform.reset_value = 0x42;
  platform.serial = AcpiPlatform::Serial{.port = 0x3f8, .irq = 4};
  platform.virtio_mmio = {{.base = 0xd000'0000, .bytes = 0x1000, .irq = 5},
                          {.base = 0xd000'1000, .bytes = 0x1000, .irq = 23}};
  return platform;
}

template <typename T>
T Get(std::span<const uint8_t> bytes, size_t offset) {
  T value = {};
  if (offset + sizeof(T) > bytes.size()) {
    ADD_FAILURE() << "offset " << offset << " is outside of " << bytes.size() << " bytes";
    return value;
  }
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

uint8_t Sum(std::span<const uint8_t> bytes) {
  return static_cast<uint8_t>(std::accumulate(bytes.begin(), bytes.end(), 0u));
}

// Follows the pointers from the RSDP, as a guest does.
class Tables {
 public:
  explicit Tables(const AcpiPlatform& platform) {
    auto tables = BuildAcpiTables(platform);
    EXPECT_TRUE(tables.ok()) << tables.status();
    bytes_ = *std::move(tables);
  }

  std::span<const uint8_t> rsdp() const { return std::span(bytes_).first(36); }

  // The table at a guest address, its checksum right; empty if there is none.
  std::span<const uint8_t> At(uint64_t address) const {
    const uint64_t offset = address - kAcpiTablesStart.value();
    const auto bytes = Get<uint32_t>(bytes_, offset + 4);
    if (bytes < 36 || offset + bytes > bytes_.size()) {
      ADD_FAILURE() << "no table at " << address;
      return {};
    }
    const auto table = std::span(bytes_).subspan(offset, bytes);
    EXPECT_EQ(Sum(table), 0) << "checksum of the table at " << address;
    return table;
  }

  std::span<const uint8_t> xsdt() const { return At(Get<uint64_t>(bytes_, 24)); }

  std::span<const uint8_t> Find(const std::string& signature) const {
    const auto list = xsdt();
    for (size_t i = 36; i + 8 <= list.size(); i += 8) {
      const auto table = At(Get<uint64_t>(list, i));
      if (!table.empty() && std::memcmp(table.data(), signature.data(), 4) == 0) {
        return table;
      }
    }
    ADD_FAILURE() << "no table " << signature;
    return {};
  }

  std::span<const uint8_t> dsdt() const { return At(Get<uint64_t>(Find("FACP"), 140)); }

 private:
  Bytes bytes_;
};

bool Contains(std::span<const uint8_t> bytes, const Bytes& part) {
  return std::search(bytes.begin(), bytes.end(), part.begin(), part.end()) != bytes.end();
}

TEST(AcpiTablesTest, RsdpComesFirstWithBothChecksums) {
  const Tables tables(TwoCpusSerialAndTwoDevices());
  const auto rsdp = tables.rsdp();
  EXPECT_EQ(std::memcmp(rsdp.data(), "RSD PTR ", 8), 0);
  EXPECT_EQ(rsdp[15], 2);
  EXPECT_EQ(Sum(rsdp.first(20)), 0);
  EXPECT_EQ(Sum(rsdp), 0);
  EXPECT_EQ(std::memcmp(tables.xsdt().data(), "XSDT", 4), 0);
}

TEST(AcpiTablesTest, FadtIsHardwareReducedWithSleepAndResetRegisters) {
  const Tables tables(TwoCpusSerialAndTwoDevices());
  const auto fadt = tables.Find("FACP");
  ASSERT_EQ(fadt.size(), 276u);
  EXPECT_EQ(fadt[8], 6);
  const auto flags = Get<uint32_t>(fadt, 112);
  EXPECT_TRUE(flags & (1 << 20)) << "HW_REDUCED_ACPI";
  EXPECT_TRUE(flags & (1 << 10)) << "RESET_REG_SUP";
  const auto port = [&](size_t offset) {
    EXPECT_EQ(fadt[offset], 1) << "I/O space";
    EXPECT_EQ(fadt[offset + 1], 8) << "bits";
    return Get<uint64_t>(fadt, offset + 4);
  };
  EXPECT_EQ(port(116), 0x602u);
  EXPECT_EQ(fadt[128], 0x42);
  EXPECT_EQ(port(244), 0x600u);
  EXPECT_EQ(port(256), 0x601u);
}

TEST(AcpiTablesTest, MadtListsEveryCpuAndTheIoApic) {
  AcpiPlatform platform = TwoCpusSerialAndTwoDevices();
  platform.cpus = 32;
  const Tables tables(platform);
  const auto madt = tables.Find("APIC");
  EXPECT_EQ(Get<uint32_t>(madt, 36), kLocalApicAddress);
  uint32_t cpus = 0;
  bool io_apic = false;
  for (size_t at = 44; at < madt.size(); at += madt[at + 1]) {
    ASSERT_GE(Get<uint8_t>(madt, at + 1), 2);
    if (madt[at] == 0) {
      EXPECT_EQ(madt[at + 2], cpus);
      EXPECT_EQ(madt[at + 3], cpus) << "APIC id";
      EXPECT_EQ(Get<uint32_t>(madt, at + 4), 1u) << "enabled";
      ++cpus;
    }
    if (madt[at] == 1) {
      io_apic = true;
      EXPECT_EQ(Get<uint32_t>(madt, at + 4), kIoApicAddress);
      EXPECT_EQ(Get<uint32_t>(madt, at + 8), 0u) << "first GSI";
    }
  }
  EXPECT_EQ(cpus, 32u);
  EXPECT_TRUE(io_apic);
}

TEST(AcpiTablesTest, DsdtListsSerialVirtioAndPowerOff) {
  const Tables tables(TwoCpusSerialAndTwoDevices());
  const auto dsdt = tables.dsdt();
  // Name (_HID, EisaId ("PNP0501"))
  EXPECT_TRUE(Contains(dsdt, {0x08, '_', 'H', 'I', 'D', 0x0c, 0x41, 0xd0, 0x05, 0x01}));
  // IO (Decode16, 0x3f8, 0x3f8, 1, 8), IRQNoFlags {4}, end tag
  EXPECT_TRUE(Contains(dsdt, {0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8, 0x22, 0x10, 0, 0x79, 0}));
  // The second device: Memory32Fixed (ReadWrite, 0xd0001000, 0x1000), Interrupt (Consumer, Edge, High, Exclusive) {23}
  EXPECT_TRUE(Contains(dsdt, {'L', 'N', 'R', 'O', '0', '0', '0', '5', 0, 0x08, '_', 'U', 'I', 'D', 1}));
  EXPECT_TRUE(Contains(dsdt, {0x86, 9, 0, 1, 0, 0x10, 0, 0xd0, 0, 0x10, 0, 0, 0x89, 6, 0, 3, 1, 23, 0, 0, 0, 0x79, 0}));
  // Name (\_S5, Package () {5, 0})
  EXPECT_TRUE(Contains(dsdt, {0x08, '\\', '_', 'S', '5', '_', 0x12, 5, 2, 0x0a, kAcpiS5SleepType, 0}));
}

TEST(AcpiTablesTest, ScopeCountsAllOfItsContents) {
  AcpiPlatform platform;
  platform.cpus = 255;  // more than 4 KiB of AML, a package length of three bytes
  const Tables tables(platform);
  const auto dsdt = tables.dsdt();
  ASSERT_EQ(dsdt[36], 0x10);
  ASSERT_EQ(dsdt[37] >> 6, 2);
  const uint32_t length = (dsdt[37] & 0xf) | dsdt[38] << 4 | dsdt[39] << 12;
  // What follows the scope is \_S5.
  ASSERT_LT(37 + length, dsdt.size());
  EXPECT_TRUE(Contains(dsdt.subspan(37 + length, 6), {0x08, '\\', '_', 'S', '5', '_'}));
}

TEST(AcpiTablesTest, MachineWithoutDevicesHasTables) {
  const Tables tables{AcpiPlatform{}};
  EXPECT_FALSE(Contains(tables.dsdt(), {'C', 'O', 'M', '1'}));
  EXPECT_FALSE(Contains(tables.dsdt(), {'L', 'N', 'R', 'O'}));
}

TEST(AcpiTablesTest, WhatCannotBeDescribedIsRefused) {
  AcpiPlatform platform = TwoCpusSerialAndTwoDevices();
  platform.cpus = 0;
  EXPECT_EQ(BuildAcpiTables(platform).status().code(), absl::StatusCode::kInvalidArgument);
  platform.cpus = 256;
  EXPECT_EQ(BuildAcpiTables(platform).status().code(), absl::StatusCode::kInvalidArgument);
  platform = TwoCpusSerialAndTwoDevices();
  platform.serial->irq = 16;
  EXPECT_EQ(BuildAcpiTables(platform).status().code(), absl::StatusCode::kInvalidArgument);
  platform = TwoCpusSerialAndTwoDevices();
  platform.virtio_mmio[1].irq = 24;
  EXPECT_THAT(std::string(BuildAcpiTables(platform).status().message()), HasSubstr("0xd0001000"));
  platform = TwoCpusSerialAndTwoDevices();
  platform.virtio_mmio.resize(4000, {.base = 0xd000'0000, .bytes = 0x1000, .irq = 5});
  EXPECT_THAT(std::string(BuildAcpiTables(platform).status().message()), HasSubstr("too many devices"));
}

}  // namespace
}  // namespace ferrite
