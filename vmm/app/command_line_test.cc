#include "vmm/app/command_line.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "vmm/app/balloon_command.h"
#include "vmm/app/console_command.h"
#include "vmm/app/events_command.h"
#include "vmm/app/exit_codes.h"
#include "vmm/app/info_command.h"
#include "vmm/app/lifecycle_commands.h"
#include "vmm/app/move_command.h"
#include "vmm/app/ps_command.h"
#include "vmm/app/receive_command.h"
#include "vmm/app/recover_command.h"
#include "vmm/app/run_command.h"
#include "vmm/app/stop_command.h"
#include "vmm/app/version_command.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = 1 << 20;

std::variant<std::unique_ptr<Command>, ParseEnd> Parse(absl::string_view words) {
  return ParseCommandLine(absl::StrSplit(words, ' ', absl::SkipEmpty()));
}

// What the command was told, which has to be one with these options.
template <typename Options>
Options ParseOk(std::vector<std::string> words) {
  const std::string text = absl::StrJoin(words, " ");
  const auto parsed = ParseCommandLine(std::move(words));
  if (const auto* end = std::get_if<ParseEnd>(&parsed)) {
    ADD_FAILURE() << text << ": " << end->text;
    return {};
  }
  const auto* command = dynamic_cast<const CommandWith<Options>*>(std::get<std::unique_ptr<Command>>(parsed).get());
  if (command == nullptr) {
    ADD_FAILURE() << text << " is another command";
    return {};
  }
  return command->options();
}

template <typename Options>
Options ParseOk(absl::string_view words) {
  return ParseOk<Options>(std::vector<std::string>(absl::StrSplit(words, ' ', absl::SkipEmpty())));
}

TEST(CommandLineTest, RunHasDefaults) {
  const auto run = ParseOk<RunCommandOptions>("run --kernel k");
  EXPECT_TRUE(absl::StartsWith(run.config.name, "vm-")) << run.config.name;
  EXPECT_EQ(run.config.kernel_path, "k");
  EXPECT_EQ(run.config.memory_bytes, 512 * kMiB);
  EXPECT_EQ(run.config.cpus, 1u);
  EXPECT_EQ(run.config.memory_backing, MemoryBacking::kAnonymous);
  EXPECT_TRUE(run.config.transparent_huge_pages);
  EXPECT_TRUE(run.config.devices.empty());
  EXPECT_TRUE(run.config.reboot_on_reset);
  EXPECT_EQ(run.monitor.console.kind, ConsoleSink::Kind::kStdio);
  EXPECT_FALSE(run.detach);
}

TEST(CommandLineTest, RunTakesEveryOption) {
  const auto run = ParseOk<RunCommandOptions>(std::vector<std::string>{"run",
                                                                       "--name",
                                                                       "web-1",
                                                                       "--kernel",
                                                                       "k",
                                                                       "--initrd",
                                                                       "i",
                                                                       "--cmdline",
                                                                       "console=ttyS0 quiet",
                                                                       "--mem",
                                                                       "1G",
                                                                       "--cpus",
                                                                       "32",
                                                                       "--disk",
                                                                       "id=root,path=/a=b,ro",
                                                                       "--disk",
                                                                       "path=b.img",
                                                                       "--balloon",
                                                                       "256M",
                                                                       "--rng",
                                                                       "--console",
                                                                       "unix:/tmp/c",
                                                                       "--memory-backing",
                                                                       "hugetlb-2M",
                                                                       "--thp",
                                                                       "off",
                                                                       "--mlock",
                                                                       "--no-reboot",
                                                                       "--dirty-ring",
                                                                       "--detach",
                                                                       "--log",
                                                                       "l",
                                                                       "--run-dir",
                                                                       "/d"});
  const MachineConfig& config = run.config;
  EXPECT_EQ(config.name, "web-1");
  EXPECT_EQ(config.initrd_path, "i");
  EXPECT_EQ(config.command_line, "console=ttyS0 quiet");
  EXPECT_EQ(config.memory_bytes, 1024 * kMiB);
  EXPECT_EQ(config.cpus, 32u);
  ASSERT_EQ(config.devices.size(), 4u);
  const auto disks = config.all<DiskConfig>();
  ASSERT_EQ(disks.size(), 2u);
  EXPECT_EQ(disks[0]->id, "root");
  EXPECT_EQ(disks[0]->path, "/a=b");
  EXPECT_TRUE(disks[0]->read_only);
  EXPECT_EQ(disks[1]->id, "disk1");
  EXPECT_FALSE(disks[1]->read_only);
  EXPECT_EQ(std::get<BalloonConfig>(config.devices[1]).bytes, 256 * kMiB);
  EXPECT_TRUE(std::holds_alternative<RngConfig>(config.devices[0])) << "in the order of the bus, not of the words";
  EXPECT_TRUE(config.lock_memory && config.dirty_ring);
  EXPECT_FALSE(config.transparent_huge_pages);
  EXPECT_FALSE(config.reboot_on_reset);
  EXPECT_EQ(config.memory_backing, MemoryBacking::kHugetlb2M);
  EXPECT_EQ(run.monitor.console.path, "/tmp/c");
  EXPECT_TRUE(run.detach);
  EXPECT_EQ(run.monitor.log_path, "l");
  EXPECT_EQ(run.monitor.run_dir, "/d");
}

template <typename Options>
void ExpectTakesAName(const char* word) {
  const auto options = ParseOk<Options>(absl::StrCat(word, " vm --run-dir /d"));
  EXPECT_EQ(options.machine.name, "vm") << word;
  EXPECT_EQ(options.machine.run_dir, "/d") << word;
  EXPECT_EQ(options.machine.timeout, absl::Seconds(30)) << word;
  // The commands with the same options, apart.
  const auto parsed = Parse(absl::StrCat(word, " vm"));
  EXPECT_EQ(std::get<std::unique_ptr<Command>>(parsed)->help().name, std::string(word));
}

TEST(CommandLineTest, OtherCommandsTakeAName) {
  ExpectTakesAName<InfoCommandOptions>("info");
  ExpectTakesAName<LifecycleCommandOptions>("pause");
  ExpectTakesAName<LifecycleCommandOptions>("resume");
  ExpectTakesAName<BalloonCommandOptions>("balloon");
  ExpectTakesAName<ConsoleCommandOptions>("console");
  ExpectTakesAName<EventsCommandOptions>("events");
  ExpectTakesAName<LifecycleCommandOptions>("reset");
  ExpectTakesAName<StopCommandOptions>("stop");
  const auto ps = ParseOk<PsCommandOptions>("ps --json --run-dir /d");
  EXPECT_TRUE(ps.json);
  EXPECT_EQ(ps.run_dir, "/d");
  EXPECT_EQ(ParseOk<InfoCommandOptions>("info vm --timeout 5").machine.timeout, absl::Seconds(5));
  (void)ParseOk<VersionCommandOptions>("--version");
  (void)ParseOk<VersionCommandOptions>("version");
}

TEST(CommandLineTest, BalloonTakesASize) {
  EXPECT_FALSE(ParseOk<BalloonCommandOptions>("balloon vm").bytes.has_value());
  const auto options = ParseOk<BalloonCommandOptions>("balloon vm 256M --wait --timeout 5");
  EXPECT_EQ(options.bytes, 256 * kMiB);
  EXPECT_TRUE(options.wait);
  EXPECT_EQ(options.machine.timeout, absl::Seconds(5));
  EXPECT_EQ(ParseOk<BalloonCommandOptions>("balloon vm 0").bytes, 0u);
}

TEST(CommandLineTest, MoveTakesEveryOption) {
  const auto options = ParseOk<MoveCommandOptions>(
      "move vm unix:/a --mode postcopy --downtime-limit 20ms --max-bandwidth 1G --max-postcopy-bandwidth 2G --channels "
      "4 "
      "--timeout 10m --on-timeout postcopy --recover-for 5s --patience 7s --json --run-dir /d");
  EXPECT_EQ(options.machine.name, "vm");
  EXPECT_EQ(options.machine.run_dir, "/d");
  EXPECT_EQ(options.action, MoveCommandOptions::Action::kMove);
  EXPECT_EQ(options.address, "unix:/a");
  EXPECT_TRUE(options.json);
  EXPECT_EQ(options.move.mode, migration::MoveMode::kPostcopy);
  EXPECT_EQ(options.move.downtime_limit, absl::Milliseconds(20));
  EXPECT_EQ(options.move.max_bandwidth, 1024 * kMiB);
  EXPECT_EQ(options.move.max_postcopy_bandwidth, 2048 * kMiB);
  EXPECT_EQ(options.move.channels, 4u);
  EXPECT_FALSE(options.move.count_channels);
  EXPECT_TRUE(ParseOk<MoveCommandOptions>("move vm unix:/a --channels auto").move.count_channels);
  EXPECT_EQ(ParseOk<MoveCommandOptions>("move vm unix:/a").move.channels, 1);
  EXPECT_EQ(options.move.timeout, absl::Minutes(10));
  EXPECT_EQ(options.move.on_timeout, migration::OnTimeout::kPostcopy);
  EXPECT_EQ(options.move.recover_for, absl::Seconds(5));
  EXPECT_EQ(options.move.patience, absl::Seconds(7));
  for (const char* none : {"0", "0s", "0ms"}) {
    EXPECT_EQ(ParseOk<MoveCommandOptions>(absl::StrCat("move vm unix:/a --recover-for ", none)).move.recover_for,
              absl::ZeroDuration())
        << none;
  }
  EXPECT_EQ(ParseOk<MoveCommandOptions>("move vm --status").action, MoveCommandOptions::Action::kStatus);
  EXPECT_EQ(ParseOk<MoveCommandOptions>("move vm --cancel").action, MoveCommandOptions::Action::kCancel);
  EXPECT_EQ(ParseOk<MoveCommandOptions>("move vm --start-postcopy").action, MoveCommandOptions::Action::kStartPostcopy);
}

TEST(CommandLineTest, MovesOverRdmaSayWhatIsRegistered) {
  using migration::RdmaOptions;
  using migration::RdmaPin;
  EXPECT_EQ(ParseOk<MoveCommandOptions>("move vm rdma:h:1").move.rdma, RdmaOptions());
  EXPECT_EQ(ParseOk<MoveCommandOptions>("move vm rdma:h:1 --rdma-pin all --rdma-chunk 2M").move.rdma,
            (RdmaOptions{.pin = RdmaPin::kAll, .chunk_bytes = 2 * kMiB}));
  const auto options =
      ParseOk<ReceiveCommandOptions>("receive --name vm --listen rdma:[::1]:1 --rdma-pin chunks --rdma-chunk 1G");
  EXPECT_EQ(options.listen.ToString(), "rdma:[::1]:1");
  EXPECT_EQ(options.rdma, RdmaOptions{.chunk_bytes = 1024 * kMiB});
  EXPECT_EQ(ParseOk<RecoverCommandOptions>("recover vm rdma:h:1").address, "rdma:h:1");
}

TEST(CommandLineTest, RecoverGoesOnOrTakesBack) {
  const auto on = ParseOk<RecoverCommandOptions>("recover vm unix:/a --timeout 5");
  EXPECT_EQ(on.address, "unix:/a");
  EXPECT_EQ(on.machine.timeout, absl::Seconds(5));
  EXPECT_FALSE(on.here);
  const auto back = ParseOk<RecoverCommandOptions>("recover vm --here --force");
  EXPECT_TRUE(back.here && back.force);
  EXPECT_TRUE(ParseOk<StopCommandOptions>("stop vm --force").force);
}

TEST(CommandLineTest, WrongUsageIsOneLineThatNamesTheThing) {
  const struct {
    const char* words;
    const char* named;
  } kRows[] = {
      {"fly", "\"fly\""},
      {"run", "--kernel"},
      {"run --kernel k --cpus 0", "--cpus"},
      {"run --kernel k --cpus 33", "--cpus: 33 is not in the range 1 to 32"},
      {"run --kernel k --cpus -1", "--cpus"},
      {"run --kernel k --cpus two", "--cpus: \"two\" is not a number from 1 to 32"},
      {"run --kernel k --cpus 2x", "--cpus: \"2x\" is not a number"},
      {"run --kernel k --mem 15M", "--mem"},
      {"run --kernel k --mem 5T", "--mem"},
      {"run --kernel k --mem 99999999999999999999G", "--mem"},
      {"run --kernel k --mem 512MB", "--mem"},
      {"run --kernel k --mem -1", "--mem"},
      {"run --kernel k --mem 16777217", "--mem"},
      {"run --kernel k --mem 33M --memory-backing hugetlb-2M", "hugetlb-2M"},
      {"run --kernel k --mem 512M --memory-backing hugetlb-1G", "hugetlb-1G"},
      {"run --kernel k --memory-backing paper", "--memory-backing"},
      {"run --kernel k --thp maybe", "--thp: 'maybe' is neither on nor off"},
      {"run --thp --kernel k", "--thp: '--kernel' is neither on nor off"},
      {"run --kernel k --balloon 1G", "--balloon"},
      {"run --kernel k --balloon 100", "--balloon"},
      {"run --kernel k --balloon x", "--balloon"},
      {"run --kernel k --name a/b", "--name"},
      {"run --kernel k --name .a", "--name"},
      {"run --kernel k --console tty", "--console"},
      {"run --kernel k --console file:/c,max=1", "the least is 4K"},
      {"run --kernel k --console file:/c,max=x", "--console"},
      {"run --kernel k --console stdio --detach", "--console stdio"},
      {"run --kernel k --disk root.img", "--disk"},
      {"run --kernel k --disk id=a", "--disk"},
      {"run --kernel k --disk path=", "--disk"},
      {"run --kernel k --disk path=a,rw", "--disk"},
      {"run --kernel k --disk id=a/b,path=a", "--disk"},
      {"run --kernel k --disk id=123456789012345678901,path=a", "--disk"},
      {"run --kernel k --disk id=a,path=a --disk id=a,path=b", "--disk"},
      {"run --kernel k --json", "--json"},
      {"run --kernel k --frobnicate", "--frobnicate"},
      {"run --kernel k extra", "extra"},
      {"run --kernel k --run-dir", "--run-dir"},
      {"info", "name"},
      {"info a b", "b"},
      {"info vm -x", "-x"},
      {"info a/b", "a/b"},
      {"pause vm --timeout 0", "--timeout"},
      {"balloon vm 1x", "1x"},
      {"balloon vm --wait", "--wait"},
      {"move vm", "say where to"},
      {"move a/b unix:/a", "a/b"},
      {"move vm unix:/a --cancel", "give one of ADDRESS, --status, --cancel and --start-postcopy"},
      {"move vm --status --cancel", "give one of ADDRESS, --status, --cancel and --start-postcopy"},
      {"move vm unix:/a --on-timeout cancel", "--on-timeout: after which time?"},
      {"move vm unix:/a --downtime-limit soon", "--downtime-limit: \"soon\" is no time"},
      {"move vm unix:/a --recover-for=-1s", "--recover-for: \"-1s\" is no time"},
      {"move vm unix:/a --timeout 0s", "--timeout: \"0s\" is no time"},
      {"move vm unix:/a --max-bandwidth 63K", "--max-bandwidth: \"63K\" bytes a second move no machine"},
      {"move vm unix:/a --max-postcopy-bandwidth x", "--max-postcopy-bandwidth"},
      {"move vm unix:/a --channels many", "--channels: \"many\" is not a number from 1 to 16"},
      {"move vm unix:/a --channels 0", "--channels: 0 is not in the range 1 to 16"},
      {"move vm unix:/a --channels 17", "--channels: 17 is not in the range 1 to 16"},
      {"move vm rdma:h", "the port is missing"},
      {"move vm tcp:h:1 --rdma-pin all", "--rdma-pin: that is for rdma:HOST:PORT, and this is tcp:h:1"},
      {"move vm rdma:h:1 --rdma-pin some", "--rdma-pin"},
      {"move vm rdma:h:1 --rdma-chunk 3M", "--rdma-chunk: \"3M\" is no power of two from 2M to 1G"},
      {"move vm rdma:h:1 --rdma-chunk 1M", "--rdma-chunk: \"1M\" is no power of two from 2M to 1G"},
      {"move vm rdma:h:1 --rdma-chunk x", "--rdma-chunk"},
      {"move vm rdma:h:1 --tls-dir /d", "what goes over RDMA is not encrypted"},
      {"receive --name vm --listen unix:/a --rdma-chunk 2M", "--rdma-chunk: that is for rdma:HOST:PORT"},
      {"receive --name vm --listen rdma:h:1 --tls-psk /f", "what goes over RDMA is not encrypted"},
      {"recover vm unix:/a --here", "give ADDRESS or --here, not both"},
      {"receive --name vm --listen unix:/a --initrd i", "--initrd: of which kernel?"},
      {"receive --name vm --listen unix:/a --disk root", "--disk: \"root\": write ID=PATH"},
      {"receive --name vm --listen unix:/a --disk r=a --disk r=b", "--disk: two paths for the id r"},
  };
  for (const auto& row : kRows) {
    const auto parsed = Parse(row.words);
    const auto* end = std::get_if<ParseEnd>(&parsed);
    ASSERT_NE(end, nullptr) << row.words;
    EXPECT_EQ(end->exit_code, kExitUsage) << row.words;
    EXPECT_TRUE(absl::StartsWith(end->text, "ferrite: ")) << row.words << ": " << end->text;
    EXPECT_TRUE(absl::StrContains(end->text, row.named)) << row.words << ": " << end->text;
    EXPECT_EQ(end->text.find('\n'), end->text.size() - 1) << row.words << ": " << end->text;
  }
}

TEST(CommandLineTest, PatienceOfLessThanASecondIsNone) {
  for (const std::string command : {"move vm unix:/a --patience ", "receive --name vm --listen unix:/a --patience "}) {
    for (const char* time : {"1ns", "999ms"}) {
      const auto parsed = Parse(command + time);
      const auto* end = std::get_if<ParseEnd>(&parsed);
      ASSERT_NE(end, nullptr) << command << time;
      EXPECT_EQ(end->exit_code, kExitUsage);
      EXPECT_TRUE(
          absl::StrContains(end->text, absl::StrCat("--patience: \"", time, "\" is too short; the least is 1s")))
          << end->text;
    }
    const auto parsed = Parse(command + "1s");
    EXPECT_EQ(std::get_if<ParseEnd>(&parsed), nullptr) << command;
  }
}

TEST(CommandLineTest, EmptyValuesAreNamed) {
  const struct {
    std::vector<std::string> words;
    const char* named;
  } kRows[] = {
      {{"run", "--kernel", ""}, "--kernel"},
      {{"run", "--kernel", "k", "--name", ""}, "--name"},
      {{"run", "--kernel", "k", "--name="}, "--name"},
      {{"run", "--kernel", "k", "--initrd", ""}, "--initrd"},
      {{"run", "--kernel", "k", "--console", ""}, "--console"},
      {{"run", "--kernel", "k", "--disk", ""}, "--disk"},
      {{"run", "--kernel", "k", "--disk", "path=a", "--disk", ""}, "--disk"},
      {{"run", "--kernel", "k", "--balloon", ""}, "--balloon"},
      {{"run", "--kernel", "k", "--mem", ""}, "--mem"},
      {{"run", "--kernel", "k", "--log", ""}, "--log"},
      {{"run", "--kernel", "k", "--run-dir", ""}, "--run-dir"},
      {{"receive", "--name", "vm", "--listen", ""}, "--listen"},
      {{"receive", "--name", "vm", "--listen", "unix:/a", "--disk-from", ""}, "--disk-from"},
      {{"receive", "--name", "vm", "--listen", "unix:/a", "--console", ""}, "--console"},
      {{"move", "vm", ""}, "address"},
      {{"move", "vm", "unix:/a", "--timeout", ""}, "--timeout"},
      {{"balloon", "vm", ""}, "size"},
      {{"info", ""}, "name"},
  };
  for (const auto& row : kRows) {
    const auto parsed = ParseCommandLine(row.words);
    const auto* end = std::get_if<ParseEnd>(&parsed);
    ASSERT_NE(end, nullptr) << row.named;
    EXPECT_EQ(end->exit_code, kExitUsage) << row.named;
    EXPECT_TRUE(absl::StrContains(end->text, row.named)) << end->text;
  }
  EXPECT_EQ(
      ParseOk<RunCommandOptions>(std::vector<std::string>{"run", "--kernel", "k", "--cmdline", ""}).config.command_line,
      "");
}

TEST(CommandLineTest, ReceiveIsToldWhichFilesAMachineMayHave) {
  const auto receive = ParseOk<ReceiveCommandOptions>(
      "receive --name vm --listen unix:/a --disk root=/a=b --disk-from /images --disk-from more --boot-from /boot");
  EXPECT_EQ(receive.disk_paths, (std::map<std::string, std::string>{{"root", "/a=b"}}));
  EXPECT_EQ(receive.disk_from, (std::vector<std::string>{"/images", "more"}));
  EXPECT_EQ(receive.boot_from, (std::vector<std::string>{"/boot"}));
}

TEST(CommandLineTest, ReceiveIsToldWhoMayComeAndWithHowMuch) {
  const auto all = ParseOk<ReceiveCommandOptions>("receive --name vm --listen tcp:[::]:0");
  EXPECT_TRUE(all.from.empty());
  EXPECT_EQ(all.max_memory_bytes, UINT64_MAX);
  EXPECT_EQ(all.max_cpus, 32u);
  const auto some = ParseOk<ReceiveCommandOptions>(
      "receive --name vm --listen tcp:[::]:0 --from 192.0.2.0/24 --from 2001:db8::1 --max-mem 2G --max-cpus 4");
  EXPECT_EQ(some.from.size(), 2u);
  EXPECT_EQ(some.max_memory_bytes, 2048 * kMiB);
  EXPECT_EQ(some.max_cpus, 4u);
  const std::pair<const char*, const char*> wrong[] = {
      {"tcp:[::]:0 --from 192.0.2.1/24", "beyond its mask"},
      {"tcp:[::]:0 --from host", "--from: 'host' is no address"},
      {"unix:/a --from 192.0.2.0/24", "a unix socket is its owner's alone"},
      {"tcp:[::]:0 --max-mem much", "--max-mem"},
      {"tcp:[::]:0 --max-cpus 33", "--max-cpus"},
      {"tcp:[::]:0 --max-cpus 0", "--max-cpus"},
  };
  for (const auto& [words, named] : wrong) {
    const auto parsed = Parse(absl::StrCat("receive --name vm --listen ", words));
    const auto* end = std::get_if<ParseEnd>(&parsed);
    ASSERT_NE(end, nullptr) << words;
    EXPECT_EQ(end->exit_code, kExitUsage) << words;
    EXPECT_TRUE(absl::StrContains(end->text, named)) << end->text;
  }
}

TEST(CommandLineTest, KernelCommandLineIsLimited) {
  const auto parsed = ParseCommandLine({"run", "--kernel", "k", "--cmdline", std::string(2048, 'x')});
  ASSERT_NE(std::get_if<ParseEnd>(&parsed), nullptr);
}

TEST(CommandLineTest, EveryCommandHasHelpWithAnExampleAndTheExitCodes) {
  for (const char* command : {"run", "receive", "move", "recover", "doctor", "ps", "info", "pause", "resume", "balloon",
                              "console", "events", "reset", "stop", "version"}) {
    const auto parsed = Parse(absl::StrCat(command, " --help"));
    const auto* end = std::get_if<ParseEnd>(&parsed);
    ASSERT_NE(end, nullptr) << command;
    EXPECT_EQ(end->exit_code, kExitOk) << command;
    EXPECT_TRUE(absl::StrContains(end->text, absl::StrCat("Example:\n  ferrite ", command))) << end->text;
    EXPECT_TRUE(absl::StrContains(end->text, "--run-dir")) << end->text;
    EXPECT_TRUE(absl::StrContains(end->text, "Exit codes")) << end->text;
  }
  const auto help = Parse("--help");
  EXPECT_EQ(std::get<ParseEnd>(help).exit_code, kExitOk);
  const auto nothing = Parse("");
  EXPECT_EQ(std::get<ParseEnd>(nothing).exit_code, kExitUsage);
}

}  // namespace
}  // namespace ferrite
