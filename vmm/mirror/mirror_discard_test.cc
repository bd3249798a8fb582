// What the guest discards goes as holes: the target gives its blocks back, and reads as the source does.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "migration/api/mirror_options.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/waiting_mirrors.h"
#include "vmm/mirror/mirror_job_rig.h"
#include "vmm/mirror/nbd_server.h"

namespace ferrite {
namespace {

using migration::MirrorState;

class MirrorDiscardTest : public MirrorJobRig {
 protected:
  static uint64_t Allocated(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return static_cast<uint64_t>(info.st_blocks) * 512;
  }
  // A mirror to `where`, which keeps its blocks at `path`, of a disk that is full of data, a part of which is discarded
  // when it was copied; then a whole copy is kept.
  void Try(const MirrorRequest& request, const std::string& path) {
    ASSERT_EQ(disks_->Write(0, std::string(kBytes, 'd')).ToString(), "OK");
    Begin(request);
    told_.AwaitState(MirrorState::kReady);
    told_.Await([](const MirrorStatus& mirror) { return mirror.figures.done_bytes == kBytes; });
    const uint64_t before = Allocated(path);
    ASSERT_GE(before, kBytes);
    // Chunks at its ends are discarded in part: what lies beside stays.
    constexpr uint64_t kDiscarded = uint64_t{4} << 20;
    ASSERT_EQ(disks_->Discard((uint64_t{1} << 20) + 4096, kDiscarded).ToString(), "OK");
    ASSERT_EQ(mirrors_->Cancel("root", /*keep_copy=*/true).ToString(), "OK");
    EXPECT_TRUE(FileContent(path) == FileContent(root_));
    // Two chunks and what the file system needs for itself.
    EXPECT_LE(Allocated(path), before - kDiscarded + (128 << 10));
    EXPECT_GE(told_.AwaitOver().figures.zero_bytes, kDiscarded - (128 << 10));
  }
};

TEST_F(MirrorDiscardTest, FileThatWasMadeGivesItsBlocksBack) { Try(To(target_), target_); }

TEST_F(MirrorDiscardTest, FileThatWasThereDoes) {
  {
    const Fd file(open(target_.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    const std::string old(kBytes, 'o');
    ASSERT_EQ(pwrite(file.get(), old.data(), old.size(), 0), static_cast<ssize_t>(old.size()));
  }
  MirrorRequest request = To(target_);
  request.existing = true;
  Try(request, target_);
}

// The server punches a hole where it may: libnbd's zero without LIBNBD_CMD_FLAG_NO_HOLE.
TEST_F(MirrorDiscardTest, ServersFileDoes) {
  const std::string served = directory_ / "served.img";
  const Fd file(open(served.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(ftruncate(file.get(), kBytes), 0);
  const auto server = NbdServer::Nbdkit(directory_, {"file", served});
  ASSERT_TRUE(server.ok()) << server.status();
  Try(To(server->where()), served);
}

// It cannot zero, and what it held would be read again: zeroes are written as data.
TEST_F(MirrorDiscardTest, ServerThatCannotZeroReadsAsTheSource) {
  const std::string served = directory_ / "served.img";
  const Fd file(open(served.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(ftruncate(file.get(), kBytes), 0);
  const auto server = NbdServer::Nbdkit(directory_, {"--filter=nozero", "file", served, "zeromode=none"});
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_EQ(disks_->Write(0, std::string(kBytes, 'd')).ToString(), "OK");
  Begin(To(server->where()));
  told_.Await([](const MirrorStatus& mirror) { return mirror.figures.done_bytes == kBytes; });
  ASSERT_EQ(disks_->Discard(1 << 20, 1 << 20).ToString(), "OK");
  told_.AwaitState(MirrorState::kReady);
  ASSERT_EQ(mirrors_->Cancel("root", /*keep_copy=*/true).ToString(), "OK");
  EXPECT_TRUE(FileContent(served) == FileContent(root_));
}

}  // namespace
}  // namespace ferrite
