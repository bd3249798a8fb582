#include "vmm/app/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/byte_size.h"
#include "base/clean_text.h"
#include "base/status.h"
#include "memory/guest_memory.h"
#include "vmm/app/exit_codes.h"
#include "vmm/control/run_dir.h"

namespace ferrite {
namespace {

constexpr uint64_t kMinMemoryBytes = uint64_t{16} << 20;
constexpr size_t kMaxDiskId = 20;  // VIRTIO_BLK_ID_BYTES
constexpr int kMaxTimeoutSeconds = 86'400;
// A frame of pages takes 4 s at that.
constexpr uint64_t kLeastBandwidth = 64 << 10;

// The words of `run` before they are checked.
struct RunWords {
  std::string memory = "512M";
  std::string balloon;
  std::string console;
  std::string backing = "memfd";
  std::vector<std::string> disks;
  bool no_reboot = false;
};

// The words of `receive` and `move`, likewise.
struct MoveWords {
  std::string listen;
  std::vector<std::string> from;
  std::string max_memory;
  std::vector<std::string> disks;
  std::string console;
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

absl::Status Wrong(absl::string_view option, const absl::Status& status) { return Annotate(status, option); }

absl::Status CheckMemory(const MachineConfig& config) {
  const uint64_t bytes = config.memory_bytes;
  if (bytes < kMinMemoryBytes || bytes > kMaxGuestMemoryBytes) {
    return absl::InvalidArgumentError(absl::StrCat("--mem: ", FormatByteSize(bytes), " is not in ",
                                                   FormatByteSize(kMinMemoryBytes), " to ",
                                                   FormatByteSize(kMaxGuestMemoryBytes)));
  }
  if (const uint64_t page = HostPageBytes(config.memory_backing); bytes % page != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--mem: ", FormatByteSize(bytes), " is not a multiple of ",
                                                   FormatByteSize(page), ", the page size of --memory-backing ",
                                                   MemoryBackingName(config.memory_backing)));
  }
  return absl::OkStatus();
}

absl::Status CheckBalloon(uint64_t bytes, const MachineConfig& config) {
  if (bytes % kPageBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--balloon: ", FormatByteSize(bytes), " is not a multiple of ", kPageBytes));
  }
  if (bytes > config.memory_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("--balloon: ", FormatByteSize(bytes), " is more than the machine's ",
                                                   FormatByteSize(config.memory_bytes), " of memory"));
  }
  return absl::OkStatus();
}

absl::Status FinishRun(const RunWords& words, RunOptions& run) {
  MachineConfig& config = run.config;
  if (config.name.empty()) {
    config.name = absl::StrFormat("vm-%06x", std::random_device{}() & 0xff'ffff);
  }
  FERRITE_RETURN_IF_ERROR(Wrong("--name", CheckMachineName(config.name)));
  auto backing = ParseMemoryBacking(words.backing);
  FERRITE_RETURN_IF_ERROR(Wrong("--memory-backing", backing.status()));
  config.memory_backing = *backing;
  auto memory = ParseByteSize(words.memory);
  FERRITE_RETURN_IF_ERROR(Wrong("--mem", memory.status()));
  config.memory_bytes = *memory;
  FERRITE_RETURN_IF_ERROR(CheckMemory(config));
  if (!words.balloon.empty()) {
    auto balloon = ParseByteSize(words.balloon);
    FERRITE_RETURN_IF_ERROR(Wrong("--balloon", balloon.status()));
    FERRITE_RETURN_IF_ERROR(CheckBalloon(*balloon, config));
    config.balloon_bytes = *balloon;
  }
  if (config.command_line.size() > kMaxKernelCommandLine) {
    return absl::InvalidArgumentError(absl::StrCat("--cmdline: ", config.command_line.size(),
                                                   " bytes are more than the kernel's limit, ", kMaxKernelCommandLine));
  }
  if (words.disks.size() > kMaxDisks) {
    return absl::InvalidArgumentError(absl::StrCat("--disk: a machine has at most ", kMaxDisks, " disks"));
  }
  std::set<std::string> ids;
  for (const std::string& text : words.disks) {
    auto disk = ParseDisk(text, config.disks.size());
    FERRITE_RETURN_IF_ERROR(Wrong("--disk", disk.status()));
    if (!ids.insert(disk->id).second) {
      return absl::InvalidArgumentError(absl::StrCat("--disk: two disks have the id ", disk->id));
    }
    config.disks.push_back(*std::move(disk));
  }
  const char* default_console = run.detach ? "none" : "stdio";
  auto console = ParseConsoleSink(words.console.empty() ? default_console : words.console);
  FERRITE_RETURN_IF_ERROR(Wrong("--console", console.status()));
  run.console = *std::move(console);
  if (run.detach && run.console.kind == ConsoleSink::Kind::kStdio) {
    return absl::InvalidArgumentError(
        "--console stdio: a detached machine has no terminal; use none (the default with --detach) and `ferrite "
        "console`, or file:PATH, or unix:PATH");
  }
  config.reboot_on_reset = !words.no_reboot;
  return absl::OkStatus();
}

absl::Status ReadDuration(absl::string_view option, const std::string& text, absl::Duration& out) {
  if (text.empty()) {
    return absl::OkStatus();
  }
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration <= absl::ZeroDuration() ||
      duration == absl::InfiniteDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, ": \"", absl::CHexEscape(text), "\" is no time; write it as 50ms, 2s or 10m"));
  }
  out = duration;
  return absl::OkStatus();
}

// What a loaded host may need for a step: less is no patience, and what is derived from it would round to nothing.
constexpr absl::Duration kLeastPatience = absl::Seconds(1);

absl::Status ReadPatience(const std::string& text, absl::Duration& out) {
  FERRITE_RETURN_IF_ERROR(ReadDuration("--patience", text, out));
  if (out < kLeastPatience) {
    return absl::InvalidArgumentError(
        absl::StrCat("--patience: \"", text, "\" is too short; the least is ", absl::FormatDuration(kLeastPatience)));
  }
  return absl::OkStatus();
}

absl::Status FinishReceive(const MoveWords& words, RunOptions& run, ReceiveOptions& receive) {
  FERRITE_RETURN_IF_ERROR(Wrong("--name", CheckMachineName(run.config.name)));
  auto listen = migration::ParseAddress(words.listen);
  FERRITE_RETURN_IF_ERROR(Wrong("--listen", listen.status()));
  receive.listen = *std::move(listen);
  for (const std::string& text : words.disks) {
    const std::pair<std::string, std::string> disk = absl::StrSplit(text, absl::MaxSplits('=', 1));
    if (disk.first.empty() || disk.second.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--disk: \"", absl::CHexEscape(text), "\": write ID=PATH, as --disk root=/images/root.img"));
    }
    if (!receive.disk_paths.insert(disk).second) {
      return absl::InvalidArgumentError(absl::StrCat("--disk: two paths for the id ", disk.first));
    }
  }
  if (!words.from.empty() && receive.listen.kind == migration::Address::Kind::kUnix) {
    return absl::InvalidArgumentError("--from: a unix socket is its owner's alone; this is for --listen tcp:HOST:PORT");
  }
  for (const std::string& text : words.from) {
    auto range = migration::AddressRange::Parse(text);
    FERRITE_RETURN_IF_ERROR(Wrong("--from", range.status()));
    receive.from.push_back(*range);
  }
  if (!words.max_memory.empty()) {
    auto bytes = ParseByteSize(words.max_memory);
    FERRITE_RETURN_IF_ERROR(Wrong("--max-mem", bytes.status()));
    receive.max_memory_bytes = *bytes;
  }
  if (!receive.initrd_path.empty() && receive.kernel_path.empty()) {
    return absl::InvalidArgumentError("--initrd: of which kernel? Give --kernel, too");
  }
  FERRITE_RETURN_IF_ERROR(ReadPatience(words.patience, receive.patience));
  auto console = ParseConsoleSink(words.console.empty() ? "stdio" : words.console);
  FERRITE_RETURN_IF_ERROR(Wrong("--console", console.status()));
  run.console = *std::move(console);
  return absl::OkStatus();
}

absl::Status ReadBandwidth(absl::string_view option, const std::string& text, uint64_t& out) {
  if (text.empty()) {
    return absl::OkStatus();
  }
  auto bytes = ParseByteSize(text);
  FERRITE_RETURN_IF_ERROR(Wrong(option, bytes.status()));
  if (*bytes < kLeastBandwidth) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, ": \"", text, "\" bytes a second move no machine; the least is ",
                     FormatByteSize(kLeastBandwidth), ", and without ", option, " there is no limit"));
  }
  out = *bytes;
  return absl::OkStatus();
}

absl::Status FinishMove(const MoveWords& words, MoveWish& move) {
  const int actions = (words.status ? 1 : 0) + (words.cancel ? 1 : 0) + (words.start_postcopy ? 1 : 0);
  if (actions > 1 || (actions == 1 && !move.address.empty())) {
    return absl::InvalidArgumentError("give one of ADDRESS, --status, --cancel and --start-postcopy");
  }
  if (actions == 1) {
    move.action = words.status   ? MoveWish::Action::kStatus
                  : words.cancel ? MoveWish::Action::kCancel
                                 : MoveWish::Action::kStartPostcopy;
    return absl::OkStatus();
  }
  if (move.address.empty()) {
    return absl::InvalidArgumentError(
        "say where to: tcp:HOST:PORT or unix:PATH, as the other monitor's `ferrite receive` prints it");
  }
  FERRITE_RETURN_IF_ERROR(migration::ParseAddress(move.address).status());
  if (!words.on_timeout.empty() && words.timeout.empty()) {
    return absl::InvalidArgumentError("--on-timeout: after which time? Give --timeout, too");
  }
  using migration::MoveMode;
  move.options.mode = words.mode == "precopy"    ? MoveMode::kPrecopy
                      : words.mode == "postcopy" ? MoveMode::kPostcopy
                                                 : MoveMode::kAuto;
  move.options.on_timeout =
      words.on_timeout == "postcopy" ? migration::OnTimeout::kPostcopy : migration::OnTimeout::kCancel;
  FERRITE_RETURN_IF_ERROR(ReadDuration("--downtime-limit", words.downtime_limit, move.options.downtime_limit));
  FERRITE_RETURN_IF_ERROR(ReadDuration("--timeout", words.timeout, move.options.timeout));
  FERRITE_RETURN_IF_ERROR(ReadDuration("--recover-for", words.recover_for, move.options.recover_for));
  FERRITE_RETURN_IF_ERROR(ReadPatience(words.patience, move.options.patience));
  FERRITE_RETURN_IF_ERROR(ReadBandwidth("--max-bandwidth", words.max_bandwidth, move.options.max_bandwidth));
  return ReadBandwidth("--max-postcopy-bandwidth", words.max_postcopy_bandwidth, move.options.max_postcopy_bandwidth);
}

ParseEnd UsageError(const CLI::App& app, absl::string_view message) {
  const auto chosen = app.get_subcommands();
  const std::string command = chosen.empty() ? "ferrite" : absl::StrCat("ferrite ", chosen[0]->get_name());
  // CLI11's messages may have several lines.
  const std::string line = CleanText(message.substr(0, message.find('\n')));
  return {kExitUsage, absl::StrCat("ferrite: ", line, " (`", command, " --help` shows the usage)\n")};
}

// As CLI::Range, which calls a word that is no number "not in range".
auto InRange(int min, int max) {
  return [min, max](const std::string& text) -> std::string {
    int number = 0;
    if (!absl::SimpleAtoi(text, &number)) {
      return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 40)), "\" is not a number from ", min, " to ", max);
    }
    return number < min || number > max ? absl::StrCat(number, " is not in the range ", min, " to ", max) : "";
  };
}

// All commands, their options, help and examples; `line` and `words` get what is parsed.
class Grammar {
 public:
  Grammar(CommandLine& line, RunWords& words, MoveWords& move_words, std::string& balloon) : line_(line) {
    app_.require_subcommand(1);
    app_.footer(kExitCodesHelp);
    app_.add_flag("--version", show_version_, "As the command `version`");
    AddRun(words);
    AddReceive(move_words);
    AddMove(move_words);
    AddRecover();
    Json(Add(Command::kDoctor, "doctor", "What this host can do, and what to do about what it cannot",
             "ferrite doctor"));
    Json(Add(Command::kPs, "ps", "List the machines that run", "ferrite ps"));
    Timeout(Json(Name(Add(Command::kInfo, "info", "Show a machine", "ferrite info web1 --json"))));
    Timeout(Name(
        Add(Command::kPause, "pause", "Stop a machine's processors and devices until `resume`", "ferrite pause web1")));
    Timeout(Name(Add(Command::kResume, "resume", "Let a paused machine go on", "ferrite resume web1")));
    AddBalloon(balloon);
    Name(Add(Command::kConsole, "console", "Use a machine's serial console; Ctrl-a x leaves it, the machine runs on",
             "ferrite console web1"));
    Json(Name(Add(Command::kEvents, "events", "Print what happens to a machine until it ends", "ferrite events web1")));
    Timeout(Name(Add(Command::kReset, "reset", "Press a machine's reset button", "ferrite reset web1")));
    Force(Timeout(Name(Add(Command::kStop, "stop",
                           "End a machine at once, as if its power was cut, and wait until its monitor has ended",
                           "ferrite stop web1"))),
          "Also when it was handed over and the destination may still need its memory");
    Json(Add(Command::kVersion, "version", "Print the version", "ferrite version"));
    RefuseEmptyValues();
  }

  CLI::App& app() { return app_; }

 private:
  CLI::App* Add(Command command, const char* name, const char* what, const std::string& example) {
    CLI::App* sub = app_.add_subcommand(name, what);
    sub->add_option("--run-dir", line_.run_dir,
                    "Directory of the machines' run directories [/run/ferrite, $XDG_RUNTIME_DIR/ferrite]")
        ->type_name("DIR");
    sub->footer(absl::StrCat("Example:\n  ", example, "\n\n", kExitCodesHelp));
    sub->callback([this, command] { line_.command = command; });
    return sub;
  }
  CLI::App* Json(CLI::App* sub) {
    sub->add_flag("--json", line_.json, "Print JSON");
    return sub;
  }
  CLI::App* Name(CLI::App* sub) {
    sub->add_option("name", line_.name, "The machine")->required()->type_name("NAME");
    return sub;
  }
  CLI::App* Timeout(CLI::App* sub) {
    sub->add_option_function<int>(
           "--timeout", [this](const int& seconds) { line_.timeout = absl::Seconds(seconds); },
           "How long to wait for the machine [30]")
        ->type_name("SECONDS")
        ->check(InRange(1, kMaxTimeoutSeconds));
    return sub;
  }

  // An empty value is a shell variable that was not set. Only a kernel's command line may be empty.
  void RefuseEmptyValues() {
    for (CLI::App* sub : app_.get_subcommands({})) {
      for (CLI::Option* option : sub->get_options()) {
        if (option->get_items_expected_max() > 0 && option->get_name() != "--cmdline") {
          option->check([](const std::string& text) { return text.empty() ? "the value is empty" : ""; });
        }
      }
    }
  }
  // One value each time.
  static CLI::Option* Repeatable(CLI::Option* option) {
    return option->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  }
  void Force(CLI::App* sub, const char* what) { sub->add_flag("--force", line_.force, what); }

  void Debuggable(CLI::App* sub) {
    sub->add_flag(
        "--debuggable", line_.run.debuggable,
        "Let other processes of this user look into the monitor and the guest's memory: debuggers, and cores");
  }

  void AddBalloon(std::string& size) {
    CLI::App* sub = Name(Add(Command::kBalloon, "balloon",
                             "Show or set a machine's balloon: the guest memory that is given back to the host",
                             "ferrite balloon web1 256M --wait"));
    sub->add_option("size", size, "Guest memory that shall be given back: 256M; 0 gives all of it to the guest again")
        ->type_name("SIZE");
    sub->add_flag("--wait", line_.wait, "Return when the guest has reached SIZE, or at the timeout with exit code 5");
    Timeout(Json(sub));
  }

  void AddReceive(MoveWords& words) {
    CLI::App* sub = Add(Command::kReceive, "receive", "Wait for a machine that moves here, then run it as `run` does",
                        "ferrite receive --name web1 --listen tcp:0.0.0.0:4000 --disk root=/images/root.img "
                        "--kernel vmlinuz");
    sub->add_option("--name", line_.run.config.name, "The machine's name here")->required()->type_name("NAME");
    sub->add_option("--listen", words.listen, "tcp:HOST:PORT (port 0: any free one) or unix:PATH")
        ->required()
        ->type_name("ADDRESS");
    Repeatable(sub->add_option("--disk", words.disks, "ID=PATH: where a disk is here; repeatable"))
        ->type_name("ID=PATH");
    Repeatable(
        sub->add_option("--disk-from", line_.receive.disk_from,
                        "Take other disks where they are at the source, if that is below DIR [none]; repeatable"))
        ->type_name("DIR");
    sub->add_flag("--trust-disks", line_.receive.trust_disks,
                  "Take the disks of --disk also where it shows that nobody has them open");
    sub->add_option("--kernel", line_.receive.kernel_path,
                    "What a reset boots here [the source's kernel and initrd, if --boot-from allows them]")
        ->type_name("FILE");
    sub->add_option("--initrd", line_.receive.initrd_path, "The initial RAM disk of that kernel [none]")
        ->type_name("FILE");
    Repeatable(sub->add_option("--boot-from", line_.receive.boot_from,
                               "Without --kernel: boot the source's kernel and initrd, if the same files are below DIR "
                               "[none]; repeatable"))
        ->type_name("DIR");
    sub->add_option("--console", words.console,
                    "Serial console: stdio, none, file:PATH[,max=SIZE] or unix:PATH [stdio]")
        ->type_name("SINK");
    sub->add_flag("--mlock", line_.receive.lock_memory, "Lock the guest's memory in RAM once it is here");
    sub->add_flag("--dirty-ring", line_.receive.dirty_ring,
                  "Track dirty pages with KVM's ring in place of its log when it moves on");
    Repeatable(sub->add_option("--from", words.from,
                               "Let in connections of 192.0.2.0/24 or 2001:db8::/32 alone; repeatable [everybody's]"))
        ->type_name("ADDRESS/BITS");
    sub->add_option("--max-mem", words.max_memory, "Refuse a machine with more memory [what this host has]")
        ->type_name("SIZE");
    sub->add_option("--max-cpus", line_.receive.max_cpus, "Refuse a machine with more processors, 1 to 32 [32]")
        ->type_name("N")
        ->check(InRange(1, static_cast<int>(kMaxCpus)));
    sub->add_option("--patience", words.patience,
                    "How long a source may take to say what machine it brings, and for each step until memory comes "
                    "[60s]")
        ->type_name("TIME");
    sub->add_option("--ready-fd", line_.receive.ready_fd,
                    "Write the address to this file descriptor and close it when the monitor is ready")
        ->type_name("N")
        ->check(InRange(0, 1 << 20));
    sub->add_option("--log", line_.run.log_path, "Append the log to FILE, which stays [a file in the run directory]")
        ->type_name("FILE");
    Debuggable(sub);
  }

  void AddMove(MoveWords& words) {
    CLI::App* sub = Json(Name(Add(Command::kMove, "move",
                                  "Move a running machine to another monitor, and print what it cost; ends with 0 only "
                                  "when the guest runs there",
                                  "ferrite move web1 tcp:192.0.2.7:4000\n  ferrite move web1 --status")));
    sub->add_option("address", line_.move.address, "Where `ferrite receive` waits: tcp:HOST:PORT or unix:PATH")
        ->type_name("ADDRESS");
    sub->add_option("--mode", words.mode, "auto (pre-copy, then post-copy if need be), precopy or postcopy [auto]")
        ->type_name("MODE")
        ->check(CLI::IsMember({"auto", "precopy", "postcopy"}));
    sub->add_option("--downtime-limit", words.downtime_limit, "How long the guest may stand still [50ms]")
        ->type_name("TIME");
    sub->add_option("--max-bandwidth", words.max_bandwidth, "Bytes a second before the guest goes over [no limit]")
        ->type_name("SIZE");
    sub->add_option("--max-postcopy-bandwidth", words.max_postcopy_bandwidth,
                    "The same afterwards; what the guest waits for is never held back [no limit]")
        ->type_name("SIZE");
    sub->add_option("--channels", line_.move.options.channels, "Connections for memory, 1 to 16 [1]")
        ->type_name("N")
        ->check(InRange(1, 16));
    sub->add_option("--timeout", words.timeout, "How long pre-copy may take [no limit]")->type_name("TIME");
    sub->add_option("--on-timeout", words.on_timeout, "What then: cancel or postcopy [cancel]")
        ->type_name("WHAT")
        ->check(CLI::IsMember({"cancel", "postcopy"}));
    sub->add_option("--recover-for", words.recover_for,
                    "How long to look for the destination when the connection is lost after the guest went over [30s]")
        ->type_name("TIME");
    sub->add_option("--patience", words.patience,
                    "How long the destination may take for each step until memory goes, as to build the machine [60s]")
        ->type_name("TIME");
    sub->add_flag("--status", words.status, "Show the move that is on, or the last one");
    sub->add_flag("--cancel", words.cancel, "Cancel the move that is on: the guest stays");
    sub->add_flag("--start-postcopy", words.start_postcopy, "Hand the guest over now, its memory follows");
  }

  void AddRecover() {
    CLI::App* sub = Json(Name(Timeout(
        Add(Command::kRecover, "recover",
            "Go on with a move whose connection was lost after the machine was handed over, or take the machine back",
            "ferrite recover web1\n  ferrite recover web1 --here"))));
    sub->add_option("address", line_.move.address, "Where the destination listens now [where it did]")
        ->type_name("ADDRESS");
    sub->add_flag(
        "--here", line_.move.here,
        "Run the machine here again, as it was when it was handed over: only when the destination is gone for "
        "good. What it did there since is lost. A destination that answers and has it keeps it");
    Force(sub, "With --here: also when somebody listens at the destination who does not answer");
  }

  void AddRun(RunWords& words) {
    CLI::App* sub = Add(Command::kRun, "run", "Make and run a machine; ends with it",
                        "ferrite run --name web1 --kernel vmlinuz --initrd initrd.img --cmdline console=ttyS0 "
                        "--mem 512M --cpus 2\n    --disk id=root,path=root.img --balloon 0 --rng");
    MachineConfig& config = line_.run.config;
    sub->add_option("--name", config.name, "Its name for the other commands [vm- and a random number]")
        ->type_name("NAME");
    sub->add_option("--kernel", config.kernel_path, "bzImage or uncompressed ELF kernel")
        ->required()
        ->type_name("FILE");
    sub->add_option("--initrd", config.initrd_path, "Initial RAM disk")->type_name("FILE");
    sub->add_option("--cmdline", config.command_line, "Kernel command line")->type_name("TEXT");
    sub->add_option("--mem", words.memory, "Memory, 16M to 4T [512M]")->type_name("SIZE");
    sub->add_option("--cpus", config.cpus, "Processors, 1 to 32 [1]")
        ->type_name("N")
        ->check(InRange(1, static_cast<int>(kMaxCpus)));
    Repeatable(sub->add_option("--disk", words.disks,
                               "[id=ID,]path=FILE[,ro]: a raw image as a virtio block device; repeatable"))
        ->type_name("DISK");
    sub->add_option("--balloon", words.balloon,
                    "Give it a balloon device; SIZE of the guest's memory is given back from the start, 0 for none")
        ->type_name("SIZE");
    sub->add_flag("--rng", config.rng, "A source of randomness");
    sub->add_option("--console", words.console,
                    "Serial console: stdio, none, file:PATH[,max=SIZE] or unix:PATH [stdio; none with --detach]")
        ->type_name("SINK");
    sub->add_option("--memory-backing", words.backing, "memfd, anon, hugetlb-2M or hugetlb-1G [memfd]")
        ->type_name("KIND");
    sub->add_flag("--thp", config.transparent_huge_pages, "Ask for transparent huge pages");
    sub->add_flag("--mlock", config.lock_memory, "Lock the guest's memory in RAM");
    sub->add_flag("--no-reboot", words.no_reboot, "A reset by the guest ends the machine");
    sub->add_flag("--dirty-ring", config.dirty_ring, "Track dirty pages with KVM's ring in place of its log");
    sub->add_flag("--detach", line_.run.detach, "Return when the machine runs, and print its name and process id");
    sub->add_option("--log", line_.run.log_path, "Append the log to FILE, which stays [a file in the run directory]")
        ->type_name("FILE");
    Debuggable(sub);
    Json(sub);
  }

  CommandLine& line_;
  bool show_version_ = false;
  CLI::App app_{"ferrite: microVMs on KVM", "ferrite"};
};

}  // namespace

absl::StatusOr<DiskConfig> ParseDisk(absl::string_view text, size_t index) {
  DiskConfig disk;
  disk.id = absl::StrCat("disk", index);
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    if (part == "ro") {
      disk.read_only = true;
    } else if (absl::StartsWith(part, "id=")) {
      disk.id = std::string(part.substr(3));
    } else if (absl::StartsWith(part, "path=") && disk.path.empty()) {
      disk.path = std::string(part.substr(5));
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", absl::CHexEscape(part), "\" in \"", text, "\": write [id=ID,]path=FILE[,ro]"));
    }
  }
  if (disk.path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" names no path: write [id=ID,]path=FILE[,ro]"));
  }
  const bool id_ok = std::all_of(disk.id.begin(), disk.id.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  });
  if (disk.id.empty() || disk.id.size() > kMaxDiskId || !id_ok) {
    return absl::InvalidArgumentError(absl::StrCat("disk id \"", absl::CHexEscape(disk.id), "\": use 1 to ", kMaxDiskId,
                                                   " of the characters A-Z a-z 0-9 _ -"));
  }
  return disk;
}

std::variant<CommandLine, ParseEnd> ParseCommandLine(std::vector<std::string> words) {
  CommandLine line;
  line.timeout = absl::Seconds(30);
  RunWords run_words;
  std::string balloon;
  MoveWords move_words;
  Grammar grammar(line, run_words, move_words, balloon);
  CLI::App& app = grammar.app();
  if (words.size() == 1 && words[0] == "--version") {
    line.command = Command::kVersion;
    return line;
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
  absl::Status status;
  if (line.command == Command::kRun) {
    status = FinishRun(run_words, line.run);
    if (status.ok() && line.json && !line.run.detach) {
      status = absl::InvalidArgumentError("--json: without --detach there is nothing to print");
    }
  } else if (line.command == Command::kReceive) {
    status = FinishReceive(move_words, line.run, line.receive);
  } else if (!line.name.empty()) {
    status = CheckMachineName(line.name);
  }
  if (status.ok() && line.command == Command::kMove) {
    status = FinishMove(move_words, line.move);
  }
  if (status.ok() && line.command == Command::kRecover && !line.move.address.empty()) {
    status = line.move.here ? absl::InvalidArgumentError("give ADDRESS or --here, not both")
                            : migration::ParseAddress(line.move.address).status();
  }
  if (status.ok() && !balloon.empty()) {
    auto bytes = ParseByteSize(balloon);
    status = bytes.status();
    if (bytes.ok()) {
      line.balloon_bytes = *bytes;
    }
  }
  if (status.ok() && line.wait && !line.balloon_bytes.has_value()) {
    status = absl::InvalidArgumentError("--wait: there is no SIZE to wait for");
  }
  if (!status.ok()) {
    return UsageError(app, status.message());
  }
  return line;
}

}  // namespace ferrite
