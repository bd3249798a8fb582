// Moves ↔ their structures in proto/control.capnp.
#ifndef FERRITE_VMM_CONTROL_MOVE_RPC_H_
#define FERRITE_VMM_CONTROL_MOVE_RPC_H_

#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "proto/control.capnp.h"
#include "vmm/control/move_port.h"

namespace ferrite {

void FillMove(const MoveStatus& move, control::Move::Builder out);
// What a newer monitor means by a value that is not known here reads as the first one.
MoveStatus ReadMove(control::Move::Reader in);

void FillMoveOptions(const migration::MoveOptions& options, control::MoveOptions::Builder out);
// Not checked: the move does it.
migration::MoveOptions ReadMoveOptions(control::MoveOptions::Reader in);
void FillTlsOptions(const migration::TlsOptions& options, control::TlsOptions::Builder out);
migration::TlsOptions ReadTlsOptions(control::TlsOptions::Reader in);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_MOVE_RPC_H_
