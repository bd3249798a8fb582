// What other processes of the same user see of a monitor, and that an ordinary user's monitor works like that.
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "tests/fakes/ferrite_process.h"
#include "vmm/app/exit_codes.h"
#include "vmm/app/ordinary_user.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr char kSecret[] = "password=swordfish";

std::string Contents(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Where the tests are root's, their monitors are an ordinary user's, who may use KVM.
class HidingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    ASSERT_EQ(chmod(name, 01777), 0);
    ASSERT_TRUE(fs::create_directory(directory_ + "/dev"));
    // The user may not be able to reach the tree that is tested.
    fs::copy_file("tests/guest/dirty", directory_ + "/dirty");
    for (const char* side : {"here", "there"}) {
      ASSERT_TRUE(fs::create_directory(absl::StrCat(directory_, "/", side)));
      ASSERT_EQ(geteuid() == 0 ? chown(absl::StrCat(directory_, "/", side).c_str(), kOrdinaryUser, kOrdinaryUser) : 0,
                0);
    }
  }
  void TearDown() override {
    for (const char* side : {"here", "there"}) {
      (void)Ferrite(side, "stop web1");
    }
    receiver_.reset();
    fs::remove_all(directory_);
  }

  // For a child.
  void BeOrdinary() const {
    if (geteuid() != 0) {
      return;
    }
    BecomeOrdinaryUser(directory_ + "/dev");
  }

  std::vector<std::string> Words(const std::string& side, absl::string_view words) const {
    std::vector<std::string> list = absl::StrSplit(words, ' ', absl::SkipEmpty());
    list.push_back("--run-dir");
    list.push_back(absl::StrCat(directory_, "/", side));
    return list;
  }
  Finished Run(const std::vector<std::string>& words) const {
    return FerriteProcess(words, /*user=*/0, [this] { BeOrdinary(); }).Wait();
  }
  Finished Ferrite(const std::string& side, absl::string_view words) const { return Run(Words(side, words)); }

  // Returns the monitor's process id.
  pid_t RunGuest(absl::string_view options) {
    std::vector<std::string> words =
        Words("here", absl::StrCat("run --name web1 --kernel ", directory_,
                                   "/dirty --mem 64M --detach --json --memory-backing anon --console file:", directory_,
                                   "/here/console ", options));
    words.push_back("--cmdline");
    words.push_back(absl::StrCat("mode=step set=4M rate=2000 report_ms=10 ", kSecret));
    const Finished result = Run(words);
    EXPECT_EQ(result.exit_code, kExitOk) << result.err;
    return result.exit_code == kExitOk ? Json::parse(result.out)["pid"].get<pid_t>() : -1;
  }

  // What the user's other processes get when they open it: 0 or an errno.
  int OpenAsTheSameUser(const std::string& path) const {
    const pid_t child = fork();
    FERRITE_CHECK(child >= 0);
    if (child == 0) {
      BeOrdinary();
      _exit(open(path.c_str(), O_RDONLY | O_CLOEXEC) >= 0 ? 0 : errno);
    }
    int status = 0;
    FERRITE_CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
  }

  std::string directory_;
  std::unique_ptr<FerriteProcess> receiver_;
};

TEST_F(HidingTest, OtherProcessesOfTheUserSeeNeitherMemoryNorDescriptorsNorSecrets) {
  const pid_t monitor = RunGuest("");
  ASSERT_GT(monitor, 0);
  for (const char* what : {"fd", "mem", "maps", "environ", "pagemap"}) {
    EXPECT_EQ(OpenAsTheSameUser(absl::StrCat("/proc/", monitor, "/", what)), EACCES) << what;
  }
  const std::string command_line = Contents(absl::StrCat("/proc/", monitor, "/cmdline"));
  EXPECT_TRUE(absl::StrContains(command_line, "web1")) << command_line;
  EXPECT_FALSE(absl::StrContains(command_line, kSecret)) << command_line;
}

TEST_F(HidingTest, DebuggableMonitorCanBeLookedInto) {
  const pid_t monitor = RunGuest("--debuggable");
  ASSERT_GT(monitor, 0);
  for (const char* what : {"fd", "maps", "environ"}) {
    EXPECT_EQ(OpenAsTheSameUser(absl::StrCat("/proc/", monitor, "/", what)), 0) << what;
  }
}

// Which pages of anonymous memory were never touched only /proc/self/pagemap says.
TEST_F(HidingTest, OrdinaryUsersAnonymousMemoryMovesWithoutItsUntouchedPages) {
  ASSERT_GT(RunGuest(""), 0);
  FerriteReceiver started = StartFerriteReceiver(
      Words("there", absl::StrCat("receive --name web1 --listen tcp:127.0.0.1:0 --kernel ", directory_,
                                  "/dirty --console file:", directory_, "/there/console")),
      [this] { BeOrdinary(); });
  receiver_ = std::move(started.process);
  ASSERT_FALSE(started.address.empty()) << receiver_->Wait().err;
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", started.address, " --mode precopy --json"));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  const std::vector<std::string> lines = absl::StrSplit(moved.out, '\n', absl::SkipEmpty());
  const Json report = Json::parse(lines.back())["report"];
  EXPECT_GT(report["skipped_pages"], (32 << 20) / 4096) << report;
  // The guest checks its memory there.
  std::string console;
  for (const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
       !absl::StrContains(console, "errors=0 ") && MonotonicTime::Now() < deadline;) {
    console = Contents(directory_ + "/there/console");
  }
  EXPECT_TRUE(absl::StrContains(console, "errors=0 ")) << console;
}

}  // namespace
}  // namespace ferrite
