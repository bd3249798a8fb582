// ACPICA's compiler reads what we wrote: the tables disassemble, and the DSDT compiles again without a complaint.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vmm/boot/acpi_tables.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;

// What `command` writes to both outputs.
std::string OutputOf(const std::string& command) {
  std::string output;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) {
    return "popen failed";
  }
  std::array<char, 4096> buffer;
  while (const size_t count = fread(buffer.data(), 1, buffer.size(), pipe)) {
    output.append(buffer.data(), count);
  }
  pclose(pipe);
  return output;
}

TEST(AcpiIaslTest, DisassembledTablesCompileWithoutComplaint) {
  ASSERT_THAT(OutputOf("iasl -v"), HasSubstr("ASL+")) << "iasl (acpica-tools) is not installed";
  std::string directory = ::testing::TempDir() + "/iasl.XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);

  AcpiPlatform platform;
  platform.cpus = 32;
  platform.sleep_control_port = 0x600;
  platform.sleep_status_port = 0x601;
  platform.reset_port = 0x602;
  platform.reset_value = 1;
  platform.serial = AcpiPlatform::Serial{};
  for (uint32_t i = 0; i < 19; ++i) {
    platform.virtio_mmio.push_back({.base = 0xd000'0000 + i * 0x1000, .bytes = 0x1000, .irq = 5 + i});
  }
  const auto tables = BuildAcpiTables(platform);
  ASSERT_TRUE(tables.ok()) << tables.status();
  for (const std::string signature : {"XSDT", "FACP", "APIC", "DSDT"}) {
    // Tables start at multiples of 16.
    size_t at = 0;
    while (at < tables->size() && std::memcmp(tables->data() + at, signature.data(), 4) != 0) {
      at += 16;
    }
    ASSERT_LT(at, tables->size()) << signature;
    uint32_t bytes = 0;
    std::memcpy(&bytes, tables->data() + at + 4, sizeof(bytes));
    const std::string path = absl::StrCat(directory, "/", signature);
    std::ofstream(path + ".dat", std::ios::binary).write(reinterpret_cast<const char*>(tables->data() + at), bytes);
    const std::string output = OutputOf(absl::StrCat("iasl -d ", path, ".dat"));
    EXPECT_TRUE(std::filesystem::exists(path + ".dsl")) << output;
    for (const char* complaint : {"Warning", "Error", "Incorrect checksum", "Invalid"}) {
      EXPECT_EQ(output.find(complaint), std::string::npos) << output;
    }
  }
  EXPECT_THAT(OutputOf(absl::StrCat("iasl -tc ", directory, "/DSDT.dsl")),
              HasSubstr("0 Errors, 0 Warnings, 0 Remarks"));
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace ferrite
