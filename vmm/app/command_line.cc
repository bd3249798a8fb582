#include "vmm/app/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/clean_text.h"
#include "vmm/app/balloon_command.h"
#include "vmm/app/console_command.h"
#include "vmm/app/doctor_command.h"
#include "vmm/app/events_command.h"
#include "vmm/app/exit_codes.h"
#include "vmm/app/info_command.h"
#include "vmm/app/lifecycle_commands.h"
#include "vmm/app/mirror_command.h"
#include "vmm/app/move_command.h"
#include "vmm/app/ps_command.h"
#include "vmm/app/receive_command.h"
#include "vmm/app/recover_command.h"
#include "vmm/app/run_command.h"
#include "vmm/app/stop_command.h"
#include "vmm/app/version_command.h"

namespace ferrite {
namespace {

// In the help's order.
std::vector<std::unique_ptr<Command>> AllCommands() {
  std::vector<std::unique_ptr<Command>> all;
  all.push_back(MakeRunCommand());
  all.push_back(MakeReceiveCommand());
  all.push_back(MakeMoveCommand());
  all.push_back(MakeRecoverCommand());
  all.push_back(MakeMirrorCommand());
  all.push_back(MakeDoctorCommand());
  all.push_back(MakePsCommand());
  all.push_back(MakeInfoCommand());
  all.push_back(MakePauseCommand());
  all.push_back(MakeResumeCommand());
  all.push_back(MakeBalloonCommand());
  all.push_back(MakeConsoleCommand());
  all.push_back(MakeEventsCommand());
  all.push_back(MakeResetCommand());
  all.push_back(MakeStopCommand());
  all.push_back(MakeVersionCommand());
  return all;
}

// An empty value is a shell variable that was not set. Only a kernel's command line may be empty.
void RefuseEmptyValues(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    if (option->get_items_expected_max() > 0 && option->get_name() != "--cmdline") {
      option->check([](const std::string& text) { return text.empty() ? "the value is empty" : ""; });
    }
  }
}

void Add(Command& command, CLI::App& app) {
  CLI::App* const sub = app.add_subcommand(command.help().name, command.help().what);
  command.AddTo(*sub);
  sub->footer(absl::StrCat("Example:\n  ", command.help().example, "\n\n", kExitCodesHelp));
  RefuseEmptyValues(*sub);
}

ParseEnd UsageError(const CLI::App& app, absl::string_view message) {
  const auto chosen = app.get_subcommands();
  const std::string command = chosen.empty() ? "ferrite" : absl::StrCat("ferrite ", chosen[0]->get_name());
  // CLI11's messages may have several lines.
  const std::string line = CleanText(message.substr(0, message.find('\n')));
  return {kExitUsage, absl::StrCat("ferrite: ", line, " (`", command, " --help` shows the usage)\n")};
}

}  // namespace

std::variant<std::unique_ptr<Command>, ParseEnd> ParseCommandLine(std::vector<std::string> words) {
  if (words.size() == 1 && words[0] == "--version") {
    return MakeVersionCommand();
  }
  std::vector<std::unique_ptr<Command>> commands = AllCommands();
  CLI::App app("ferrite: microVMs on KVM", "ferrite");
  app.require_subcommand(1);
  app.footer(kExitCodesHelp);
  bool show_version = false;
  app.add_flag("--version", show_version, "As the command `version`");
  for (const auto& command : commands) {
    Add(*command, app);
  }
  if (words.empty()) {
    return ParseEnd{kExitUsage, app.help()};
  }
  // CLI11 would only say that a command is required.
  const auto named = app.get_subcommands([&](const CLI::App* sub) { return sub->get_name() == words[0]; });
  if (!absl::StartsWith(words[0], "-") && named.empty()) {
    return UsageError(app, absl::StrCat("there is no command \"", absl::CHexEscape(words[0]), "\""));
  }
  try {
    // CLI11 takes the words from the back.
    std::reverse(words.begin(), words.end());
    app.parse(words);
  } catch (const CLI::CallForHelp&) {
    const auto chosen = app.get_subcommands();
    return ParseEnd{kExitOk, chosen.empty() ? app.help() : chosen[0]->help("ferrite")};
  } catch (const CLI::Error& error) {
    return UsageError(app, error.what());
  }
  const std::string chosen = app.get_subcommands()[0]->get_name();
  const auto command = std::find_if(commands.begin(), commands.end(),
                                    [&](const auto& candidate) { return candidate->help().name == chosen; });
  if (const absl::Status status = (*command)->Finish(); !status.ok()) {
    return UsageError(app, status.message());
  }
  return std::move(*command);
}

}  // namespace ferrite
