// What a source tells of its machine, without a move.
#ifndef FERRITE_TESTS_FAKES_WHOLE_SPEC_H_
#define FERRITE_TESTS_FAKES_WHOLE_SPEC_H_

#include "absl/status/statusor.h"
#include "base/page_map.h"
#include "migration/api/machine_spec.h"
#include "migration/api/source_machine.h"
#include "migration/sending/memory_part.h"

namespace ferrite::migration {

// The machine's own description, and its memory's regions.
inline absl::StatusOr<MachineSpec> WholeSpec(SourceMachine& machine) {
  absl::StatusOr<MachineSpec> spec = machine.state().Describe();
  if (spec.ok()) {
    spec->regions = MemoryPart(machine.memory(), machine.dirty_log(), OwnPageMap).regions();
  }
  return spec;
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_WHOLE_SPEC_H_
