#include "base/socket_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/unix_socket.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kPatience = absl::Seconds(20);

class SocketFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-socket-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    path_ = name;
    directory_ = Open("");
  }
  void TearDown() override { fs::remove_all(path_); }

  Fd Open(const std::string& name) { return Fd(open((path_ + name).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)); }

  std::string path_;
  Fd directory_;
};

TEST_F(SocketFileTest, IsItsOwnersAloneAndFoundByItsPathToo) {
  const auto listener = ListenAt(directory_, "sock");
  ASSERT_TRUE(listener.ok()) << listener.status();
  struct stat info = {};
  ASSERT_EQ(lstat((path_ + "/sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_TRUE(ConnectToUnixSocket(path_ + "/sock").ok());
  const auto client = ConnectAt(directory_, "sock", kPatience);
  ASSERT_TRUE(client.ok()) << client.status();
  timeval limit = {};
  socklen_t length = sizeof(limit);
  ASSERT_EQ(getsockopt(client->get(), SOL_SOCKET, SO_SNDTIMEO, &limit, &length), 0);
  EXPECT_TRUE(limit.tv_sec == 0 && limit.tv_usec == 0) << "the connection itself has no limit";
  EXPECT_TRUE(absl::IsAlreadyExists(ListenAt(directory_, "sock").status()));
  EXPECT_TRUE(absl::IsNotFound(ConnectAt(directory_, "none", kPatience).status()));
}

TEST_F(SocketFileTest, LinkToAnotherSocketIsNotFollowed) {
  const auto victim = ListenAt(directory_, "victim");
  ASSERT_TRUE(victim.ok()) << victim.status();
  fs::create_directory(path_ + "/theirs");
  fs::create_symlink("../victim", path_ + "/theirs/sock");
  EXPECT_TRUE(ConnectToUnixSocket(path_ + "/theirs/sock").ok()) << "as the kernel would";
  const absl::Status status = ConnectAt(Open("/theirs"), "sock", kPatience).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), path_ + "/theirs/sock is not a socket")) << status;
}

// A blocking connect(2) would wait for good.
TEST_F(SocketFileTest, FullQueueIsWaitedForNoLongerThanIsSaid) {
  const Fd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = path_ + "/sock";
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener.get(), 0), 0);
  std::vector<Fd> queued;
  do {
    queued.emplace_back(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  } while (connect(queued.back().get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  const absl::Status status = ConnectAt(directory_, "sock", absl::Milliseconds(20)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), path)) << status;
  // It is somebody's, though it takes nobody.
  EXPECT_TRUE(absl::IsAlreadyExists(ListenOnPath(path).status()));
}

TEST_F(SocketFileTest, FileGoesWithItsListenerAndADeadOneIsReplaced) {
  const std::string path = path_ + "/sock";
  (void)ListenAt(directory_, "sock");  // leaves the file
  ASSERT_TRUE(fs::exists(path));
  {
    const auto listener = ListenOnPath(path);
    ASSERT_TRUE(listener.ok()) << listener.status();
    EXPECT_TRUE(ConnectToUnixSocket(path).ok());
  }
  EXPECT_FALSE(fs::exists(path));
  std::ofstream(path) << "theirs";
  EXPECT_TRUE(absl::IsAlreadyExists(ListenOnPath(path).status()));
  EXPECT_TRUE(fs::exists(path));
  EXPECT_TRUE(absl::IsNotFound(ListenOnPath(path_ + "/none/sock").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ListenOnPath(absl::StrCat(path_, "/", std::string(100, 'l'))).status()));
}

// Neither the link of a name on the way nor another file of the name makes it remove what it did not make.
TEST_F(SocketFileTest, OnlyItsOwnFileIsRemoved) {
  fs::create_directory(path_ + "/a");
  fs::create_directory(path_ + "/victim");
  std::ofstream(path_ + "/victim/sock") << "theirs";
  {
    const auto listener = ListenOnPath(path_ + "/a/sock");
    ASSERT_TRUE(listener.ok()) << listener.status();
    fs::rename(path_ + "/a", path_ + "/away");
    fs::create_directory_symlink("victim", path_ + "/a");
  }
  EXPECT_TRUE(fs::exists(path_ + "/victim/sock"));
  EXPECT_FALSE(fs::exists(path_ + "/away/sock"));
  {
    const auto listener = ListenOnPath(path_ + "/away/sock");
    ASSERT_TRUE(listener.ok()) << listener.status();
    fs::rename(path_ + "/away/sock", path_ + "/away/older");
    std::ofstream(path_ + "/away/sock") << "theirs";
  }
  EXPECT_TRUE(fs::exists(path_ + "/away/sock"));
  {
    const std::string path = path_ + "/cleaned";
    auto listener = ListenOnPath(path);
    ASSERT_TRUE(listener.ok()) << listener.status();
    fs::remove(path);
    const auto next = ListenOnPath(path);
    ASSERT_TRUE(next.ok()) << next.status();
    listener = absl::CancelledError("it ends");
    EXPECT_TRUE(ConnectToUnixSocket(path).ok()) << "the next one's is there";
  }
}

}  // namespace
}  // namespace ferrite
