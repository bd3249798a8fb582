// Mirrors ↔ their structures in proto/control.capnp.
#ifndef FERRITE_VMM_CONTROL_MIRROR_RPC_H_
#define FERRITE_VMM_CONTROL_MIRROR_RPC_H_

#include "migration/api/mirror_options.h"
#include "proto/control.capnp.h"
#include "vmm/control/mirror_port.h"

namespace ferrite {

void FillMirror(const MirrorStatus& mirror, control::Mirror::Builder out);
// What a newer monitor means by a value that is not known here reads as the first one.
MirrorStatus ReadMirror(control::Mirror::Reader in);

void FillMirrorOptions(const migration::MirrorOptions& options, control::MirrorOptions::Builder out);
// Not checked: the mirror does it.
migration::MirrorOptions ReadMirrorOptions(control::MirrorOptions::Reader in);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_MIRROR_RPC_H_
