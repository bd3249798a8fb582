// `ferrite recover`: goes on with a move that lost its connection, or takes the machine back.
#ifndef FERRITE_VMM_APP_RECOVER_COMMAND_H_
#define FERRITE_VMM_APP_RECOVER_COMMAND_H_

#include <memory>
#include <string>

#include "migration/api/tls_options.h"
#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct RecoverCommandOptions {
  MachineOptions machine;
  std::string address;  // empty: where the destination was
  migration::TlsOptions tls;
  bool here = false;
  bool force = false;  // with `here`
  bool json = false;
};

std::unique_ptr<Command> MakeRecoverCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_RECOVER_COMMAND_H_
