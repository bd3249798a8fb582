#include "vmm/app/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "base/log.h"
#include "tests/fakes/full_file.h"

namespace ferrite {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class LoggingTest : public ::testing::Test {
 protected:
  LoggingTest() {
    std::string directory = ::testing::TempDir() + "/logging.XXXXXX";
    EXPECT_NE(mkdtemp(directory.data()), nullptr);
    directory_ = directory;
  }
  ~LoggingTest() override {
    LogToStandardError();
    std::filesystem::remove_all(directory_);
  }

  std::string path() const { return directory_ + "/log"; }
  // The lines, and what follows the last of them.
  static std::vector<std::string> Lines(const FullFile& file) { return absl::StrSplit(file.Appended(), '\n'); }

  std::string directory_;
};

TEST_F(LoggingTest, AFileGoesOnOnceThereIsRoomAgainAndCountsWhatIsMissing) {
  FullFile file(path(), /*room=*/50);
  ASSERT_TRUE(LogToFileToo(path()).ok());
  Log().info("fits");
  ::testing::internal::CaptureStderr();
  Log().info("does not fit in what is left of the room");
  Log().info("second");
  Log().info("third");
  const std::string told = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(told, StartsWith("ferrite: warning: the log is not complete: write " + path() + ": File too large"));
  EXPECT_EQ(told.find('\n'), told.size() - 1) << "told once";
  EXPECT_EQ(file.Appended().size(), 50u);
  file.MakeRoom();
  Log().info("fourth");
  Log().info("fifth");
  EXPECT_THAT(Lines(file),
              ElementsAre(EndsWith(" info fits"), Not(HasSubstr("room")),
                          HasSubstr(" warning 3 messages are missing here: write " + path() + ": File too large"),
                          EndsWith(" info fourth"), EndsWith(" info fifth"), ""));
}

// Whoever wrote them.
TEST_F(LoggingTest, WordsAreCleanInTheFileAndOnTheTerminal) {
  ASSERT_TRUE(LogToFileToo(path()).ok());
  ::testing::internal::CaptureStderr();
  Log().warn("it says: {}", "\x1b]0;root\a\xff\nsecond\x1b[2J");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "ferrite: warning: it says: ?]0;root??\n    second?[2J\n");
  std::stringstream file;
  file << std::ifstream(path()).rdbuf();
  EXPECT_THAT(file.str(), EndsWith(" warning it says: ?]0;root??\n    second?[2J\n"));
}

// Each time anew, and a notice that does not fit itself is no line either.
TEST_F(LoggingTest, EveryGapIsTold) {
  for (int i = 0; i < 2; ++i) {
    FullFile file(path(), /*room=*/5);
    ASSERT_TRUE(LogToFileToo(path()).ok());
    ::testing::internal::CaptureStderr();
    Log().info("first");
    Log().info("second");
    EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("the log is not complete"));
    file.MakeRoom();
    Log().info("third");
    EXPECT_THAT(Lines(file),
                ElementsAre(::testing::SizeIs(5),
                            AllOf(HasSubstr(" warning 2 messages are missing here: "), Not(HasSubstr("third"))),
                            EndsWith(" info third"), ""));
  }
}

}  // namespace
}  // namespace ferrite
