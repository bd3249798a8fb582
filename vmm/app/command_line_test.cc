#include "vmm/app/command_line.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "vmm/app/exit_codes.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = 1 << 20;

std::variant<CommandLine, ParseEnd> Parse(absl::string_view words) {
  return ParseCommandLine(absl::StrSplit(words, ' ', absl::SkipEmpty()));
}

CommandLine ParseOk(absl::string_view words) {
  auto parsed = Parse(words);
  if (const auto* end = std::get_if<ParseEnd>(&parsed)) {
    ADD_FAILURE() << words << ": " << end->text;
    return {};
  }
  return std::get<CommandLine>(parsed);
}

TEST(CommandLineTest, RunHasDefaults) {
  const CommandLine line = ParseOk("run --kernel k");
  EXPECT_EQ(line.command, Command::kRun);
  EXPECT_TRUE(absl::StartsWith(line.run.config.name, "vm-")) << line.run.config.name;
  EXPECT_EQ(line.run.config.kernel_path, "k");
  EXPECT_EQ(line.run.config.memory_bytes, 512 * kMiB);
  EXPECT_EQ(line.run.config.cpus, 1u);
  EXPECT_EQ(line.run.config.memory_backing, MemoryBacking::kMemfd);
  EXPECT_FALSE(line.run.config.balloon_bytes.has_value());
  EXPECT_TRUE(line.run.config.reboot_on_reset);
  EXPECT_EQ(line.run.console.kind, ConsoleSink::Kind::kStdio);
  EXPECT_FALSE(line.run.detach);
}

TEST(CommandLineTest, RunTakesEveryOption) {
  const auto parsed = ParseCommandLine({"run",
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
                                        "--mlock",
                                        "--no-reboot",
                                        "--dirty-ring",
                                        "--detach",
                                        "--log",
                                        "l",
                                        "--run-dir",
                                        "/d"});
  const auto* line = std::get_if<CommandLine>(&parsed);
  ASSERT_NE(line, nullptr) << std::get<ParseEnd>(parsed).text;
  const MachineConfig& config = line->run.config;
  EXPECT_EQ(config.name, "web-1");
  EXPECT_EQ(config.initrd_path, "i");
  EXPECT_EQ(config.command_line, "console=ttyS0 quiet");
  EXPECT_EQ(config.memory_bytes, 1024 * kMiB);
  EXPECT_EQ(config.cpus, 32u);
  ASSERT_EQ(config.disks.size(), 2u);
  EXPECT_EQ(config.disks[0].id, "root");
  EXPECT_EQ(config.disks[0].path, "/a=b");
  EXPECT_TRUE(config.disks[0].read_only);
  EXPECT_EQ(config.disks[1].id, "disk1");
  EXPECT_FALSE(config.disks[1].read_only);
  EXPECT_EQ(config.balloon_bytes, 256 * kMiB);
  EXPECT_TRUE(config.rng && config.transparent_huge_pages && config.lock_memory && config.dirty_ring);
  EXPECT_FALSE(config.reboot_on_reset);
  EXPECT_EQ(config.memory_backing, MemoryBacking::kHugetlb2M);
  EXPECT_EQ(line->run.console.path, "/tmp/c");
  EXPECT_TRUE(line->run.detach);
  EXPECT_EQ(line->run.log_path, "l");
  EXPECT_EQ(line->run_dir, "/d");
}

TEST(CommandLineTest, OtherCommandsTakeAName) {
  const struct {
    const char* word;
    Command command;
  } kRows[] = {
      {"info", Command::kInfo},       {"pause", Command::kPause},     {"resume", Command::kResume},
      {"balloon", Command::kBalloon}, {"console", Command::kConsole}, {"events", Command::kEvents},
      {"reset", Command::kReset},     {"stop", Command::kStop},
  };
  for (const auto& row : kRows) {
    const CommandLine line = ParseOk(absl::StrCat(row.word, " vm --run-dir /d"));
    EXPECT_EQ(line.command, row.command) << row.word;
    EXPECT_EQ(line.name, "vm");
    EXPECT_EQ(line.run_dir, "/d");
  }
  EXPECT_EQ(ParseOk("ps --json --run-dir /d").command, Command::kPs);
  EXPECT_EQ(ParseOk("info vm --timeout 5").timeout, absl::Seconds(5));
  EXPECT_EQ(ParseOk("--version").command, Command::kVersion);
  EXPECT_EQ(ParseOk("version").command, Command::kVersion);
}

TEST(CommandLineTest, BalloonTakesASize) {
  EXPECT_FALSE(ParseOk("balloon vm").balloon_bytes.has_value());
  const CommandLine line = ParseOk("balloon vm 256M --wait --timeout 5");
  EXPECT_EQ(line.balloon_bytes, 256 * kMiB);
  EXPECT_TRUE(line.wait);
  EXPECT_EQ(line.timeout, absl::Seconds(5));
  EXPECT_EQ(ParseOk("balloon vm 0").balloon_bytes, 0u);
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
    (void)ParseOk(command + "1s");
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
  const auto parsed = ParseCommandLine({"run", "--kernel", "k", "--cmdline", ""});
  EXPECT_NE(std::get_if<CommandLine>(&parsed), nullptr);
}

TEST(CommandLineTest, ReceiveIsToldWhichFilesAMachineMayHave) {
  const auto parsed = ParseCommandLine({"receive", "--name", "vm", "--listen", "unix:/a", "--disk", "root=/a=b",
                                        "--disk-from", "/images", "--disk-from", "more", "--boot-from", "/boot"});
  const auto* line = std::get_if<CommandLine>(&parsed);
  ASSERT_NE(line, nullptr);
  EXPECT_EQ(line->receive.disk_paths, (std::map<std::string, std::string>{{"root", "/a=b"}}));
  EXPECT_EQ(line->receive.disk_from, (std::vector<std::string>{"/images", "more"}));
  EXPECT_EQ(line->receive.boot_from, (std::vector<std::string>{"/boot"}));
}

TEST(CommandLineTest, ReceiveIsToldWhoMayComeAndWithHowMuch) {
  const CommandLine all = ParseOk("receive --name vm --listen tcp:[::]:0");
  EXPECT_TRUE(all.receive.from.empty());
  EXPECT_EQ(all.receive.max_memory_bytes, UINT64_MAX);
  EXPECT_EQ(all.receive.max_cpus, 32u);
  const CommandLine some =
      ParseOk("receive --name vm --listen tcp:[::]:0 --from 192.0.2.0/24 --from 2001:db8::1 --max-mem 2G --max-cpus 4");
  EXPECT_EQ(some.receive.from.size(), 2u);
  EXPECT_EQ(some.receive.max_memory_bytes, 2048 * kMiB);
  EXPECT_EQ(some.receive.max_cpus, 4u);
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
  for (const char* command :
       {"run", "doctor", "ps", "info", "pause", "resume", "balloon", "console", "events", "reset", "stop", "version"}) {
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
