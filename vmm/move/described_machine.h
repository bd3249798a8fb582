// What a source tells of a machine of ferrite's: a MachineDescription inside of a MachineSpec.
#ifndef FERRITE_VMM_MOVE_DESCRIBED_MACHINE_H_
#define FERRITE_VMM_MOVE_DESCRIBED_MACHINE_H_

#include <capnp/message.h>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "migration/api/machine_spec.h"
#include "proto/machine.capnp.h"

namespace ferrite {

// `message` holds a MachineDescription. The spec's regions are for the caller to add.
migration::MachineSpec EncodeDescription(capnp::MessageBuilder& message);

// Calls `use` with what the spec holds. FAILED_PRECONDITION when that is another monitor's, or of a version that is not
// known; INVALID_ARGUMENT when it is no description, also when that comes to light only while `use` reads.
absl::Status DecodeDescription(const migration::MachineSpec& spec,
                               absl::FunctionRef<absl::Status(state::MachineDescription::Reader)> use);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_DESCRIBED_MACHINE_H_
