#include "vmm/move/described_machine.h"

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/clean_text.h"
#include "vmm/move/message_bytes.h"

namespace ferrite {
namespace {

constexpr absl::string_view kKind = "ferrite";
constexpr uint32_t kVersion = 1;  // an unpacked message with a machine.capnp MachineDescription

}  // namespace

migration::MachineSpec EncodeDescription(capnp::MessageBuilder& message) {
  migration::MachineSpec spec{
      .regions = {}, .kind = std::string(kKind), .version = kVersion, .machine = EncodeBytes(message)};
  const auto described = message.getRoot<state::MachineDescription>().asReader();
  for (const state::Region::Reader region : described.getRegions()) {
    spec.regions.push_back({.kind = migration::RegionKind::kRam,
                            .name = std::string(region.getName().cStr()),
                            .base = region.getBase(),
                            .bytes = region.getBytes(),
                            .page_bytes = region.getHostPageBytes()});
  }
  return spec;
}

absl::Status DecodeDescription(const migration::MachineSpec& spec,
                               absl::FunctionRef<absl::Status(state::MachineDescription::Reader)> use) {
  if (spec.kind != kKind || spec.version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the machine is described as '", CleanText(spec.kind),
                                                      "' does, version ", spec.version, "; this side reads '", kKind,
                                                      "', version ", kVersion));
  }
  return DecodeBytes(spec.machine, "description", /*reads=*/8,
                     [&](capnp::MessageReader& reader) { return use(reader.getRoot<state::MachineDescription>()); });
}

}  // namespace ferrite
