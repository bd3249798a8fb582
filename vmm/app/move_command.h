// `ferrite move`: moves a machine away, and asks about a move or changes it.
#ifndef FERRITE_VMM_APP_MOVE_COMMAND_H_
#define FERRITE_VMM_APP_MOVE_COMMAND_H_

#include <memory>
#include <string>

#include "migration/api/move_options.h"
#include "migration/api/tls_options.h"
#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct MoveCommandOptions {
  enum class Action { kMove, kStatus, kCancel, kStartPostcopy };

  MachineOptions machine;
  Action action = Action::kMove;
  std::string address;
  migration::MoveOptions move;
  migration::TlsOptions tls;
  bool json = false;
};

std::unique_ptr<Command> MakeMoveCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_MOVE_COMMAND_H_
