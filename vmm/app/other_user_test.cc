// Another user's machine moves to root's `receive`, and that user may write to the directory of its image.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "devices/block/disk_image.h"
#include "tests/fakes/ferrite_process.h"
#include "vmm/app/exit_codes.h"
#include "vmm/app/ordinary_user.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr absl::Duration kPatience = absl::Seconds(60);

class OtherUserTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) {
      GTEST_SKIP() << "ANOTHER USER'S ATTACKS ARE NOT TESTED: only root can become one";
    }
    char name[] = "/tmp/ferrite-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    ASSERT_EQ(chmod(name, 0755), 0);
    for (const char* part : {"/dev", "/theirs", "/ours"}) {
      ASSERT_TRUE(fs::create_directory(directory_ + part));
    }
    kernel_ = directory_ + "/vmlinuz";
    fs::copy_file("tests/guest/dirty", kernel_);
    fs::permissions(kernel_, fs::perms(0755));
    disk_ = directory_ + "/theirs/disk";
    secret_ = directory_ + "/ours/secret";
    for (const std::string& file : {disk_, secret_}) {
      std::ofstream(file).close();
      fs::resize_file(file, 1 << 20);
      fs::permissions(file, fs::perms(0600));
    }
    for (const std::string& theirs : {directory_ + "/theirs", disk_}) {
      ASSERT_EQ(chown(theirs.c_str(), kOrdinaryUser, kOrdinaryUser), 0);
    }
  }
  void TearDown() override {
    if (directory_.empty()) {
      return;
    }
    (void)Theirs("stop web1");
    (void)Ours("stop web1");
    receiver_.reset();
    fs::remove_all(directory_);
  }

  std::vector<std::string> Words(const std::string& side, absl::string_view words) const {
    std::vector<std::string> list = absl::StrSplit(words, ' ', absl::SkipEmpty());
    list.insert(list.end(), {"--run-dir", absl::StrCat(directory_, "/", side, "/run")});
    return list;
  }
  // As the other user, and as root.
  std::unique_ptr<FerriteProcess> StartTheirs(const std::vector<std::string>& words) const {
    return std::make_unique<FerriteProcess>(words, /*user=*/0, [this] { BecomeOrdinaryUser(directory_ + "/dev"); });
  }
  Finished Theirs(absl::string_view words) const { return StartTheirs(Words("theirs", words))->Wait(); }
  Finished Ours(absl::string_view words) const { return RunFerrite(Words("ours", words)); }
  void AsTheOtherUser(const std::function<void()>& act) const {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      BecomeOrdinaryUser(directory_ + "/dev");
      act();
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
  }

  void RunTheirGuest() {
    std::vector<std::string> words =
        Words("theirs", absl::StrCat("run --name web1 --kernel ", kernel_,
                                     " --mem 64M --detach --console none --disk id=root,path=", disk_));
    words.insert(words.end(), {"--cmdline", "mode=step set=8M idle=1"});
    const Finished result = StartTheirs(words)->Wait();
    ASSERT_EQ(result.exit_code, kExitOk) << result.err;
  }
  std::string StartOurReceiver(const std::string& options) {
    FerriteReceiver started = StartFerriteReceiver(Words(
        "ours",
        absl::StrCat("receive --name web1 --listen tcp:127.0.0.1:0 --console none --kernel ", kernel_, " ", options)));
    receiver_ = std::move(started.process);
    return started.address;
  }
  // What the image of the guest is called while a link is in its place.
  std::string Moved() const { return disk_ + "-moved"; }
  void MakeItALink() const {
    AsTheOtherUser([this] {
      FERRITE_CHECK(rename(disk_.c_str(), Moved().c_str()) == 0);
      FERRITE_CHECK(symlink(secret_.c_str(), disk_.c_str()) == 0);
    });
  }
  void MakeItTheImage() const {
    AsTheOtherUser([this] { FERRITE_CHECK(rename(Moved().c_str(), disk_.c_str()) == 0); });
  }
  static bool IsFree(const std::string& image) { return DiskImage::Create(image, /*read_only=*/false).ok(); }

  std::string directory_;
  std::string kernel_;
  std::string disk_;
  std::string secret_;
  std::unique_ptr<FerriteProcess> receiver_;
};

TEST_F(OtherUserTest, LinkToAFileOfOursMeanwhileIsNotFollowed) {
  for (const std::string& allowed :
       {absl::StrCat("--disk root=", disk_), absl::StrCat("--disk-from ", directory_, "/theirs")}) {
    SCOPED_TRACE(allowed);
    RunTheirGuest();
    const std::string address = StartOurReceiver(allowed);
    ASSERT_FALSE(address.empty()) << receiver_->Wait().err;
    const auto move =
        StartTheirs(Words("theirs", absl::StrCat("move web1 ", address, " --mode precopy --max-bandwidth 1M")));
    const auto sends = [this] {
      const Json info = Json::parse(Theirs("info web1 --json").out, nullptr, /*allow_exceptions=*/false);
      return info.is_object() && !info["move"].is_null() && info["move"]["state"] == "active" &&
             info["move"]["sent_bytes"] > 0;
    };
    MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (!sends()) {
      ASSERT_LT(MonotonicTime::Now(), deadline);
    }
    MakeItALink();
    EXPECT_TRUE(sends()) << "it was too late";
    const Finished moved = move->Wait();
    ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
    EXPECT_TRUE(IsFree(secret_));
    EXPECT_FALSE(IsFree(Moved())) << "the guest has its image";
    EXPECT_EQ(Ours("stop web1").exit_code, kExitOk);
    (void)receiver_->Wait();
    receiver_.reset();
    MakeItTheImage();
    deadline = MonotonicTime::Now() + kPatience;
    while (fs::exists(directory_ + "/theirs/run/web1")) {
      ASSERT_LT(MonotonicTime::Now(), deadline);
    }
  }
}

TEST_F(OtherUserTest, LinkToAFileOfOursBeforeIsNotFollowed) {
  MakeItALink();
  EXPECT_EQ(StartOurReceiver(absl::StrCat("--disk root=", disk_)), "");
  const Finished refused = receiver_->Wait();
  receiver_.reset();
  EXPECT_EQ(refused.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(refused.err,
                                "is a symbolic link that belongs to another user (uid 65534), and is not followed"))
      << refused.err;
}

}  // namespace
}  // namespace ferrite
