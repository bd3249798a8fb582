// What a source says of its machine, with something changed.
#ifndef FERRITE_TESTS_FAKES_SPOILT_MACHINE_H_
#define FERRITE_TESTS_FAKES_SPOILT_MACHINE_H_

#include <capnp/message.h>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/api/machine_spec.h"
#include "proto/machine.capnp.h"
#include "vmm/move/described_machine.h"

namespace ferrite {

// Writes the description in `spec` to the root of `out`.
inline absl::Status CopyDescription(const migration::MachineSpec& spec, capnp::MessageBuilder& out) {
  return DecodeDescription(spec, [&](state::MachineDescription::Reader description) {
    out.setRoot(description);
    return absl::OkStatus();
  });
}

inline absl::StatusOr<migration::MachineSpec> Spoilt(
    const migration::MachineSpec& spec, absl::FunctionRef<void(state::MachineDescription::Builder)> spoil) {
  capnp::MallocMessageBuilder message;
  if (absl::Status status = CopyDescription(spec, message); !status.ok()) {
    return status;
  }
  spoil(message.getRoot<state::MachineDescription>());
  migration::MachineSpec spoilt = EncodeDescription(message);
  spoilt.regions = spec.regions;
  return spoilt;
}

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_SPOILT_MACHINE_H_
