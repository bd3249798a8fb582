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
  return {.regions = {}, .kind = std::string(kKind), .version = kVersion, .machine = EncodeBytes(message)};
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
