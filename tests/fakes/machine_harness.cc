#include "tests/fakes/machine_harness.h"

#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) {
    fprintf(stderr, "%s\n", value.status().ToString().c_str());
    FERRITE_CHECK(value.ok());
  }
  return *std::move(value);
}

}  // namespace

MachineHarness::MachineHarness() : kvm_(ValueOrDie(Kvm::Open())), loop_(ValueOrDie(EventLoop::Create("devices"))) {}

MachineConfig MachineHarness::Config(const std::string& program, const std::string& command_line, uint32_t cpus) {
  MachineConfig config;
  config.name = program;
  config.cpus = cpus;
  config.memory_bytes = uint64_t{64} << 20;
  config.kernel_path = absl::StrCat("tests/guest/", program);
  config.command_line = command_line;
  return config;
}

std::unique_ptr<Machine> MachineHarness::Create(const MachineConfig& config, SerialBackend* console) {
  return ValueOrDie(Machine::Create(config, *kvm_, *loop_, console));
}

absl::Status MachineHarness::CreateError(const MachineConfig& config) {
  return Machine::Create(config, *kvm_, *loop_, nullptr).status();
}

void CopyMemory(Machine& from, Machine& to) {
  const auto regions = from.memory().regions();
  for (size_t i = 0; i < regions.size(); ++i) {
    const std::span<uint8_t> target = to.memory().regions()[i]->guest_mapping();
    FERRITE_CHECK(regions[i]->guest_mapping().size() == target.size());
    std::memcpy(target.data(), regions[i]->guest_mapping().data(), target.size());
  }
}

std::vector<uint8_t> MemoryImage(Machine& machine) {
  std::vector<uint8_t> image;
  for (const std::unique_ptr<MemoryRegion>& region : machine.memory().regions()) {
    image.insert(image.end(), region->guest_mapping().begin(), region->guest_mapping().end());
  }
  return image;
}

}  // namespace ferrite
