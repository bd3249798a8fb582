#include "vmm/control/pid_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "base/fd.h"

namespace ferrite {
namespace {

TEST(PidFileTest, LockAloneProvesThatAMonitorLives) {
  std::string name = "/tmp/ferrite-pid-XXXXXX";
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  const absl::Cleanup remove = [&] { std::filesystem::remove_all(name); };
  const Fd directory(open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::string path = name + "/ferrite.pid";
  {
    const auto taken = TakePidFile(directory, "vm");
    ASSERT_TRUE(taken.ok()) << taken.status();
    EXPECT_EQ(ReadPid(*taken), 0) << "whoever took it writes it";
    std::ofstream(path) << getpid() << "\n";
    const Fd look(open(path.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(IsPidFileLocked(look));
    EXPECT_EQ(ReadPid(look), getpid());
    EXPECT_FALSE(TryLockPidFile(look));
    const absl::Status second = TakePidFile(directory, "vm").status();
    EXPECT_TRUE(absl::IsAlreadyExists(second)) << second;
    EXPECT_TRUE(absl::StrContains(second.message(), "a machine named vm is running already (pid ")) << second;
  }
  const Fd look(open(path.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_FALSE(IsPidFileLocked(look));
  EXPECT_TRUE(TakePidFile(directory, "vm").ok());
  std::ofstream(path) << "not a number";
  EXPECT_EQ(ReadPid(look), 0);
}

}  // namespace
}  // namespace ferrite
