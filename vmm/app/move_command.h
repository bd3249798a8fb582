// `ferrite move`: moves a machine away, and asks about a move or changes it.
#ifndef FERRITE_VMM_APP_MOVE_COMMAND_H_
#define FERRITE_VMM_APP_MOVE_COMMAND_H_

#include <string>

#include "migration/api/move_options.h"
#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

class MoveCommand final : public Command {
 public:
  enum class Action { kMove, kStatus, kCancel, kStartPostcopy };
  struct Options {
    MachineOptions machine;
    Action action = Action::kMove;
    std::string address;
    migration::MoveOptions move;
    bool json = false;
  };

  MoveCommand();
  void AddTo(CLI::App& app) override;
  absl::Status Finish() override;
  int Run(int64_t started_ns) override;

  const Options& options() const { return options_; }

 private:
  // Words that are more than a string or a number.
  struct Words {
    std::string mode;
    std::string downtime_limit;
    std::string max_bandwidth;
    std::string max_postcopy_bandwidth;
    std::string recover_for;
    std::string patience;
    std::string timeout;
    std::string on_timeout;
    bool status = false;
    bool cancel = false;
    bool start_postcopy = false;
  };

  Options options_;
  Words words_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_MOVE_COMMAND_H_
