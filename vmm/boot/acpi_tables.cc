#include "vmm/boot/acpi_tables.h"

#include <numeric>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "vmm/boot/aml.h"

namespace ferrite {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr absl::string_view kOemId = "FERRIT";
constexpr absl::string_view kOemTableId = "FERRITE ";
constexpr absl::string_view kCreatorId = "FERR";
constexpr uint32_t kMaxCpus = 255;
constexpr uint32_t kIsaInterrupts = 16;
constexpr uint8_t kUartPorts = 8;

constexpr size_t kHeaderBytes = 36;
constexpr size_t kLengthOffset = 4;
constexpr size_t kChecksumOffset = 9;
constexpr uint64_t kTableAlignment = 16;

void Put(Bytes& to, size_t offset, uint64_t value, int bytes) {
  FERRITE_CHECK(offset + bytes <= to.size());
  for (int i = 0; i < bytes; ++i) {
    to[offset + i] = static_cast<uint8_t>(value >> (8 * i));
  }
}

void Append(Bytes& to, uint64_t value, int bytes) {
  to.resize(to.size() + bytes);
  Put(to, to.size() - bytes, value, bytes);
}

void Append(Bytes& to, absl::string_view text) { to.insert(to.end(), text.begin(), text.end()); }
void Append(Bytes& to, const Bytes& bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

// The byte that makes all of `bytes` add up to zero.
uint8_t Checksum(std::span<const uint8_t> bytes) {
  return static_cast<uint8_t>(-std::accumulate(bytes.begin(), bytes.end(), 0u));
}

// A table of `bytes` zeros behind a header (5.2.6) that Finish() completes.
Bytes StartTable(absl::string_view signature, uint8_t revision, size_t bytes = kHeaderBytes) {
  Bytes table;
  Append(table, signature);
  Append(table, 0, 4);
  Append(table, revision, 1);
  Append(table, 0, 1);
  Append(table, kOemId);
  Append(table, kOemTableId);
  Append(table, 1, 4);
  Append(table, kCreatorId);
  Append(table, 1, 4);
  table.resize(bytes);
  return table;
}

void Finish(Bytes& table) {
  Put(table, kLengthOffset, table.size(), 4);
  table[kChecksumOffset] = 0;
  table[kChecksumOffset] = Checksum(table);
}

Bytes BuildRsdp(uint64_t xsdt) {
  Bytes rsdp;  // 5.2.5.3
  Append(rsdp, "RSD PTR ");
  Append(rsdp, 0, 1);
  Append(rsdp, kOemId);
  Append(rsdp, 2, 1);
  Append(rsdp, 0, 4);  // no RSDT
  Append(rsdp, 36, 4);
  Append(rsdp, xsdt, 8);
  Append(rsdp, 0, 4);
  rsdp[8] = Checksum(std::span(rsdp).first(20));
  rsdp[32] = Checksum(rsdp);
  return rsdp;
}

Bytes BuildXsdt(std::span<const uint64_t> tables) {
  Bytes xsdt = StartTable("XSDT", 1);
  for (const uint64_t table : tables) {
    Append(xsdt, table, 8);
  }
  Finish(xsdt);
  return xsdt;
}

// A generic address (5.2.3.2) of a byte register in I/O port space.
void PutPort(Bytes& table, size_t offset, uint16_t port) {
  Put(table, offset, 1, 1);      // I/O space
  Put(table, offset + 1, 8, 1);  // bits
  Put(table, offset + 3, 1, 1);  // byte access
  Put(table, offset + 4, port, 8);
}

Bytes BuildFadt(const AcpiPlatform& platform, uint64_t dsdt) {
  constexpr uint8_t kMinorRevision = 4;
  constexpr uint16_t kNoVga = 1 << 2;
  constexpr uint16_t kNoCmosClock = 1 << 5;
  constexpr uint32_t kWbinvd = 1 << 0;
  constexpr uint32_t kNoFixedPowerButton = 1 << 4;
  constexpr uint32_t kNoFixedSleepButton = 1 << 5;
  constexpr uint32_t kHasResetRegister = 1 << 10;
  constexpr uint32_t kHardwareReduced = 1 << 20;

  Bytes fadt = StartTable("FACP", 6, 276);  // 5.2.9
  // Without the bits for legacy devices and the keyboard controller the guest does not search for them.
  Put(fadt, 109, kNoVga | kNoCmosClock, 2);
  Put(fadt, 112, kWbinvd | kNoFixedPowerButton | kNoFixedSleepButton | kHasResetRegister | kHardwareReduced, 4);
  PutPort(fadt, 116, platform.reset_port);
  Put(fadt, 128, platform.reset_value, 1);
  Put(fadt, 131, kMinorRevision, 1);
  Put(fadt, 140, dsdt, 8);
  PutPort(fadt, 244, platform.sleep_control_port);
  PutPort(fadt, 256, platform.sleep_status_port);
  Finish(fadt);
  return fadt;
}

Bytes BuildMadt(const AcpiPlatform& platform) {
  Bytes madt = StartTable("APIC", 5);  // 5.2.12
  Append(madt, kLocalApicAddress, 4);
  Append(madt, 1, 4);  // there is a pair of 8259 as well
  for (uint32_t cpu = 0; cpu < platform.cpus; ++cpu) {
    Append(madt, Bytes{0, 8, static_cast<uint8_t>(cpu), static_cast<uint8_t>(cpu)});  // 5.2.12.2
    Append(madt, 1, 4);                                                               // enabled
  }
  Append(madt, Bytes{1, 12, 0, 0});  // 5.2.12.3
  Append(madt, kIoApicAddress, 4);
  Append(madt, 0, 4);
  if (platform.serial.has_value()) {
    // ISA interrupts are GSIs of the same number, which needs no word; this one says that it is edge triggered and
    // active high for guests that would look here and not in the device's own resources (5.2.12.5).
    Append(madt, Bytes{2, 10, 0, platform.serial->irq});
    Append(madt, platform.serial->irq, 4);
    Append(madt, 0x5, 2);
  }
  Finish(madt);
  return madt;
}

Bytes BuildDsdt(const AcpiPlatform& platform) {
  std::vector<aml::Bytes> devices;
  for (uint32_t cpu = 0; cpu < platform.cpus; ++cpu) {
    devices.push_back(aml::Device(absl::StrFormat("C%03X", cpu),
                                  {aml::Name("_HID", aml::String("ACPI0007")), aml::Name("_UID", aml::Integer(cpu))}));
  }
  if (platform.serial.has_value()) {
    devices.push_back(
        aml::Device("COM1", {aml::Name("_HID", aml::EisaId("PNP0501")), aml::Name("_UID", aml::Integer(0)),
                             aml::Name("_CRS", aml::ResourceTemplate({aml::IoPorts(platform.serial->port, kUartPorts),
                                                                      aml::IsaInterrupt(platform.serial->irq)}))}));
  }
  for (size_t i = 0; i < platform.virtio_mmio.size(); ++i) {
    const AcpiPlatform::VirtioMmio& window = platform.virtio_mmio[i];
    devices.push_back(
        aml::Device(absl::StrFormat("V%03X", i),
                    {aml::Name("_HID", aml::String("LNRO0005")), aml::Name("_UID", aml::Integer(i)),
                     aml::Name("_CRS", aml::ResourceTemplate({aml::Memory32Fixed(window.base, window.bytes),
                                                              aml::ExtendedInterrupt(window.irq)}))}));
  }
  Bytes dsdt = StartTable("DSDT", 2);
  Append(dsdt, aml::Scope("\\_SB", devices));
  Append(dsdt, aml::Name("\\_S5", aml::Package({aml::Integer(kAcpiS5SleepType), aml::Integer(0)})));
  Finish(dsdt);
  return dsdt;
}

absl::Status CheckPlatform(const AcpiPlatform& platform) {
  if (platform.cpus == 0 || platform.cpus > kMaxCpus) {
    return absl::InvalidArgumentError(
        absl::StrCat("ACPI tables for ", platform.cpus, " CPUs: 1 to ", kMaxCpus, " can be described"));
  }
  if (platform.serial.has_value() && platform.serial->irq >= kIsaInterrupts) {
    return absl::InvalidArgumentError(
        absl::StrCat("serial interrupt ", int{platform.serial->irq}, " is not below ", kIsaInterrupts));
  }
  for (const AcpiPlatform::VirtioMmio& window : platform.virtio_mmio) {
    if (window.irq >= kIoApicPins) {
      return absl::InvalidArgumentError(absl::StrFormat("interrupt %d of the virtio device at %#x is not below %d",
                                                        window.irq, window.base, kIoApicPins));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> BuildAcpiTables(const AcpiPlatform& platform) {
  FERRITE_RETURN_IF_ERROR(CheckPlatform(platform));
  // Tables that others point to come first; the RSDP and the XSDT, which have known sizes, get their room before them.
  constexpr size_t kRsdpBytes = 36;
  constexpr size_t kXsdtOffset = 64;
  constexpr size_t kXsdtBytes = kHeaderBytes + 2 * sizeof(uint64_t);
  Bytes tables(kXsdtOffset + kXsdtBytes);
  const auto place = [&tables](const Bytes& table) {
    tables.resize((tables.size() + kTableAlignment - 1) / kTableAlignment * kTableAlignment);
    const uint64_t address = kAcpiTablesStart.value() + tables.size();
    Append(tables, table);
    return address;
  };
  const uint64_t dsdt = place(BuildDsdt(platform));
  const uint64_t listed[] = {place(BuildFadt(platform, dsdt)), place(BuildMadt(platform))};

  const Bytes rsdp = BuildRsdp(kAcpiTablesStart.value() + kXsdtOffset);
  const Bytes xsdt = BuildXsdt(listed);
  FERRITE_CHECK(rsdp.size() == kRsdpBytes && xsdt.size() == kXsdtBytes);
  std::copy(rsdp.begin(), rsdp.end(), tables.begin());
  std::copy(xsdt.begin(), xsdt.end(), tables.begin() + kXsdtOffset);
  if (tables.size() > kAcpiTablesEnd - kAcpiTablesStart) {
    return absl::InvalidArgumentError(absl::StrCat("the machine has too many devices: its ACPI tables take ",
                                                   tables.size(), " bytes, there is room for ",
                                                   kAcpiTablesEnd - kAcpiTablesStart));
  }
  return tables;
}

}  // namespace ferrite
