#include "vmm/app/mirror_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_files.h"
#include "vmm/app/machine_json.h"
#include "vmm/app/mirror_text.h"
#include "vmm/app/progress_line.h"
#include "vmm/control/machine_directory.h"

namespace ferrite {
namespace {

using migration::CopyMode;
using migration::ErrorPolicy;
using migration::MirrorState;

// An end that takes longer shows how the mirror goes meanwhile.
constexpr absl::Duration kSoon = absl::Seconds(2);

absl::Status ReadSize(absl::string_view option, const std::string& text, uint64_t& out) {
  if (text.empty()) {
    return absl::OkStatus();
  }
  const auto bytes = ParseByteSize(text);
  FERRITE_RETURN_IF_ERROR(Annotate(bytes.status(), option));
  out = *bytes;
  return absl::OkStatus();
}

ErrorPolicy PolicyOf(const std::string& word) {
  for (const ErrorPolicy policy : {ErrorPolicy::kIgnore, ErrorPolicy::kStop, ErrorPolicy::kEnospc}) {
    if (migration::ErrorPolicyName(policy) == word) {
      return policy;
    }
  }
  return ErrorPolicy::kReport;
}

// TARGET of the user's, who may be in another directory than the monitor.
absl::StatusOr<std::string> TargetFromRoot(const std::string& target) {
  constexpr absl::string_view kNbdUnix = "nbd:unix:";
  if (absl::StartsWith(target, kNbdUnix)) {
    const std::string rest = target.substr(kNbdUnix.size());
    const size_t end = rest.find(':');
    FERRITE_ASSIGN_OR_RETURN(const std::string path, AbsolutePath(rest.substr(0, end)));
    return absl::StrCat(kNbdUnix, path, end == std::string::npos ? "" : rest.substr(end));
  }
  if (absl::StartsWith(target, "nbd")) {
    // A server's; or a mistake, which the monitor names.
    const size_t colon = target.find(':');
    if (colon != std::string::npos && target.find('/') > colon) {
      return target;
    }
  }
  return AbsolutePath(target);
}

// Shows how a mirror goes: elsewhere than on a terminal a line for each change of state or mode.
class ProgressPrinter {
 public:
  explicit ProgressPrinter(bool json) : line_(json) {}

  void Show(const MirrorStatus& mirror) {
    const bool is_news = !shown_ || mirror.figures.state != state_ || mirror.figures.copy_mode != mode_;
    line_.Show(
        is_news, [&] { return FormatMirrorProgress(mirror); }, [&] { return MirrorJson(mirror); });
    shown_ = true;
    state_ = mirror.figures.state;
    mode_ = mirror.figures.copy_mode;
  }
  void Finish() const { line_.Finish(); }

 private:
  ProgressLine line_;
  bool shown_ = false;
  MirrorState state_ = MirrorState::kRunning;
  CopyMode mode_ = CopyMode::kBackground;
};

int ReportOver(bool json, const MirrorStatus& mirror) {
  if (json) {
    PrintJson(MirrorJson(mirror), /*indented=*/false);
  } else if (mirror.result.ok()) {
    fmt::print("{}\n{}", FormatMirrorEnd(mirror), FormatMirrorAccount(mirror));
  }
  if (mirror.result.ok()) {
    return kExitOk;
  }
  return Fail(absl::Status(mirror.result.code(), absl::StrCat(mirror.result.message(), "; ", FormatMirrorEnd(mirror))),
              kExitFailure);
}

// Starts a mirror and shows it until it is over, or ready and left to its user. Returns the exit code.
int FollowMirror(const MirrorCommandOptions& options, ControlClient& client) {
  // Before it begins: it may be over soon.
  if (const absl::Status status = client.StartWatching(); !status.ok()) {
    return Fail(status);
  }
  const auto number = client.StartMirror(options.mirror);
  if (!number.ok()) {
    return Fail(number.status());
  }
  ProgressPrinter printer(options.json);
  while (true) {
    const auto event = client.NextEvent();
    if (!event.ok()) {
      printer.Finish();
      return Fail(event.status(), kExitFailure);
    }
    if (event->event.kind != MachineEvent::Kind::kMirror || event->mirror.number != *number) {
      continue;
    }
    if (event->mirror.over) {
      printer.Finish();
      return ReportOver(options.json, event->mirror);
    }
    printer.Show(event->mirror);
    if (event->mirror.figures.state == MirrorState::kReady && !options.mirror.auto_complete) {
      printer.Finish();
      if (!options.json) {
        const std::string words = absl::StrCat("ferrite mirror ", options.machine.name, " ", options.mirror.disk);
        fmt::print(
            "{} is equal but for what is written now, and follows it.\n`{} --complete` lets the machine go on with it, "
            "`{} --cancel --keep-copy` keeps a copy, `{} --cancel` ends it.\n",
            options.mirror.target, words, words, words);
      }
      return kExitOk;
    }
  }
}

int ShowStatus(const MirrorCommandOptions& options, ControlClient& client) {
  const auto mirror = client.GetMirror(options.mirror.disk);
  if (!mirror.ok()) {
    return Fail(mirror.status());
  }
  if (options.json) {
    PrintJson(MirrorJson(*mirror), /*indented=*/false);
  } else if (mirror->number == 0) {
    fmt::print("{} of {} has not been mirrored\n", options.mirror.disk, options.machine.name);
  } else {
    fmt::print("{}\n{}", FormatLastMirror(*mirror), FormatMirrorAccount(*mirror));
  }
  return kExitOk;
}

// What became of a mirror that `status` says is over.
int ShowEnd(const MirrorCommandOptions& options, ControlClient& client, const absl::Status& status) {
  if (!status.ok()) {
    return Fail(status);
  }
  const auto mirror = client.GetMirror(options.mirror.disk);
  if (!mirror.ok()) {
    return Fail(mirror.status());
  }
  if (options.json) {
    PrintJson(MirrorJson(*mirror), /*indented=*/false);
  } else {
    fmt::print("{}\n{}", FormatMirrorEnd(*mirror), FormatMirrorAccount(*mirror));
  }
  return kExitOk;
}

// Waits for an end that may take long.
int AwaitEnd(const MirrorCommandOptions& options, ControlClient& client) {
  const MonotonicTime began = MonotonicTime::Now();
  ProgressPrinter printer(/*json=*/false);
  const auto told = [&](const MirrorStatus& mirror) {
    // JSON is one object, of the end.
    if (!options.json && !mirror.over && MonotonicTime::Now() - began >= kSoon) {
      printer.Show(mirror);
    }
  };
  const std::string& disk = options.mirror.disk;
  const absl::Status status = options.action == MirrorCommandOptions::Action::kComplete
                                  ? client.CompleteMirror(disk, told)
                                  : client.KeepMirrorCopy(disk, told);
  printer.Finish();
  return ShowEnd(options, client, status);
}

class MirrorCommand final : public CommandWith<MirrorCommandOptions> {
 public:
  MirrorCommand()
      : CommandWith({"mirror",
                     "Copy a machine's disk while the guest writes to it, and let the machine go on with the copy",
                     "ferrite mirror web1 root /images/new.img --auto-complete\n"
                     "  ferrite mirror web1 root nbd://192.0.2.7/root\n"
                     "  ferrite mirror web1 root --status"}) {}

  void AddTo(CLI::App& app) override {
    AddMachine(app, options_.machine);
    AddJson(app, options_.json);
    app.add_option("disk", options_.mirror.disk, "The disk, by its id")->type_name("DISK")->required();
    app.add_option("target", options_.mirror.target,
                   "What to copy it to: a path, nbd:unix:PATH[:EXPORT] or nbd://HOST[:PORT]/EXPORT")
        ->type_name("TARGET");
    app.add_flag("--existing", options_.mirror.existing,
                 "It is there already: a file that is empty or of the disk's size, or a block device that has it at "
                 "least");
    app.add_option("--granularity", words_.granularity, "What is copied at least at a time, a power of two [64K]")
        ->type_name("SIZE");
    app.add_option("--buffer", words_.buffer, "Memory for what is being copied [16M]")->type_name("SIZE");
    app.add_option("--in-flight", options_.mirror.options.in_flight, "Operations at a time, 1 to 256 [16]")
        ->type_name("N")
        ->check(InRange(1, 256));
    app.add_option("--copy-mode", words_.copy_mode,
                   "background, which turns to write-blocking when it cannot keep up, or write-blocking: a guest's "
                   "write is answered when both have it [background]")
        ->type_name("MODE")
        ->check(CLI::IsMember({"background", "write-blocking"}));
    app.add_option("--max-bandwidth", words_.max_bandwidth, "Bytes a second [no limit]")->type_name("SIZE");
    app.add_option("--downtime-limit", words_.downtime_limit,
                   "It is ready when the rest is copied within that time [50ms]")
        ->type_name("TIME");
    for (const auto& [option, word, what] :
         {std::tuple{"--on-source-error", &words_.on_source_error, "What an error of the disk's own image does"},
          std::tuple{"--on-target-error", &words_.on_target_error, "What an error of the target does"}}) {
      app.add_option(option, *word,
                     absl::StrCat(what,
                                  ": report (the mirror fails), ignore (it is tried again), stop (it waits for "
                                  "--resume) or enospc (stop when the target is full, else report) [report]"))
          ->type_name("POLICY")
          ->check(CLI::IsMember({"report", "ignore", "stop", "enospc"}));
    }
    app.add_flag("--auto-complete", options_.mirror.auto_complete,
                 "Let the machine go on with the target as soon as it is ready");
    app.add_flag("--status", words_.status, "Show the disk's mirror that is on, or the last one");
    app.add_flag("--complete", words_.complete,
                 "Let the machine go on with the target, which is ready; returns when it does, or with why it stays");
    app.add_flag("--cancel", words_.cancel, "End it: the machine stays, what was made for it is removed");
    app.add_flag("--keep-copy", options_.keep_copy,
                 "With --cancel, when it is ready: the target stays, as a whole copy of that instant");
    app.add_flag("--pause", words_.pause, "Copy nothing until --resume");
    app.add_flag("--resume", words_.resume, "Go on, also after an error that it stopped for");
    app.add_option("--set", words_.set, "Change it while it runs: max-bandwidth=SIZE, 0 for no limit")
        ->type_name("WHAT=VALUE");
  }

  absl::Status Finish() override {
    FERRITE_RETURN_IF_ERROR(CheckMachineName(options_.machine.name));
    const std::pair<bool, Action> actions[] = {{words_.status, Action::kStatus}, {words_.complete, Action::kComplete},
                                               {words_.cancel, Action::kCancel}, {words_.pause, Action::kPause},
                                               {words_.resume, Action::kResume}, {!words_.set.empty(), Action::kSet}};
    int chosen = options_.mirror.target.empty() ? 0 : 1;
    for (const auto& [is, action] : actions) {
      if (is) {
        ++chosen;
        options_.action = action;
      }
    }
    if (chosen == 0) {
      return absl::InvalidArgumentError("say what to copy it to: a path, nbd:unix:PATH[:EXPORT] or nbd://HOST/EXPORT");
    }
    if (chosen > 1) {
      return absl::InvalidArgumentError(
          "give one of TARGET, --status, --complete, --cancel, --pause, --resume and --set");
    }
    if (options_.keep_copy && options_.action != Action::kCancel) {
      return absl::InvalidArgumentError("--keep-copy goes with --cancel");
    }
    if (options_.action == Action::kSet) {
      absl::string_view value = words_.set;
      if (!absl::ConsumePrefix(&value, "max-bandwidth=")) {
        return absl::InvalidArgumentError(
            absl::StrCat("--set: \"", words_.set, "\": what can be set is max-bandwidth=SIZE"));
      }
      return ReadSize("--set max-bandwidth", std::string(value), options_.max_bandwidth);
    }
    if (options_.action != Action::kMirror) {
      return absl::OkStatus();
    }
    migration::MirrorOptions& mirror = options_.mirror.options;
    uint64_t granularity = mirror.granularity;
    FERRITE_RETURN_IF_ERROR(ReadSize("--granularity", words_.granularity, granularity));
    if (granularity > migration::kMostGranularity) {
      return absl::InvalidArgumentError(absl::StrCat("--granularity: \"", words_.granularity, "\" is more than ",
                                                     FormatByteSize(migration::kMostGranularity)));
    }
    mirror.granularity = static_cast<uint32_t>(granularity);
    FERRITE_RETURN_IF_ERROR(ReadSize("--buffer", words_.buffer, mirror.buffer_bytes));
    FERRITE_RETURN_IF_ERROR(ReadSize("--max-bandwidth", words_.max_bandwidth, mirror.max_bandwidth));
    FERRITE_RETURN_IF_ERROR(ReadDuration("--downtime-limit", words_.downtime_limit, mirror.downtime_limit));
    mirror.copy_mode = words_.copy_mode == "write-blocking" ? CopyMode::kWriteBlocking : CopyMode::kBackground;
    mirror.on_source_error = PolicyOf(words_.on_source_error);
    mirror.on_target_error = PolicyOf(words_.on_target_error);
    return migration::CheckMirrorOptions(mirror);
  }

  int Run(int64_t /*started_ns*/) override {
    if (options_.action == Action::kMirror) {
      auto target = TargetFromRoot(options_.mirror.target);
      if (!target.ok()) {
        return Fail(target.status());
      }
      options_.mirror.target = *std::move(target);
    }
    return WithMachine(options_.machine, [&](ControlClient& client) -> int {
      const std::string& disk = options_.mirror.disk;
      absl::Status status;
      switch (options_.action) {
        case Action::kMirror:
          return FollowMirror(options_, client);
        case Action::kStatus:
          return ShowStatus(options_, client);
        case Action::kComplete:
          return AwaitEnd(options_, client);
        case Action::kCancel:
          return options_.keep_copy ? AwaitEnd(options_, client) : ShowEnd(options_, client, client.CancelMirror(disk));
        case Action::kPause:
          status = client.PauseMirror(disk);
          break;
        case Action::kResume:
          status = client.ResumeMirror(disk);
          break;
        case Action::kSet:
          status = client.SetMirror(disk, options_.max_bandwidth);
          break;
      }
      return status.ok() ? kExitOk : Fail(status);
    });
  }

 private:
  using Action = MirrorCommandOptions::Action;
  // Words that are more than a string or a number.
  struct Words {
    std::string granularity;
    std::string buffer;
    std::string copy_mode;
    std::string max_bandwidth;
    std::string downtime_limit;
    std::string on_source_error;
    std::string on_target_error;
    std::string set;
    bool status = false;
    bool complete = false;
    bool cancel = false;
    bool pause = false;
    bool resume = false;
  };

  Words words_;
};

}  // namespace

std::unique_ptr<Command> MakeMirrorCommand() { return std::make_unique<MirrorCommand>(); }

}  // namespace ferrite
