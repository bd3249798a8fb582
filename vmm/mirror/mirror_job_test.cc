// Mirrors of a real image that is written to, to files and to real NBD servers; no machine.
#include "vmm/mirror/mirror_job.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/thread.h"
#include "devices/block/disk_image.h"
#include "tests/fakes/fake_disks.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/waiting_mirrors.h"
#include "vmm/mirror/mirror_job_rig.h"
#include "vmm/mirror/nbd_server.h"

namespace ferrite {
namespace {

using migration::CopyMode;
using migration::ErrorPolicy;
using migration::MirrorState;
using ::testing::HasSubstr;

class MirrorJobTest : public MirrorJobRig {};

TEST_F(MirrorJobTest, MachineGoesOnWithTheTarget) {
  StartWriter();
  Begin(To(target_));
  EXPECT_TRUE(std::filesystem::exists(target_ + ".incomplete"));
  told_.AwaitState(MirrorState::kReady);
  AwaitWrites(100);
  ASSERT_EQ(mirrors_->Complete("root").ToString(), "OK");

  EXPECT_EQ(disks_->path(), target_);
  const std::string old = FileContent(root_);
  ExpectFree(root_);
  EXPECT_FALSE(std::filesystem::exists(target_ + ".incomplete"));
  AwaitWrites(100);
  StopWriter();
  EXPECT_TRUE(FileContent(root_) == old) << "the old image changed";
  EXPECT_TRUE(FileContent(target_) != old) << "nothing was written to the new one";
  const MirrorStatus mirror = told_.AwaitOver();
  EXPECT_EQ(mirror.result.ToString(), "OK");
  EXPECT_EQ(mirror.figures.state, MirrorState::kCompleted);
  EXPECT_EQ(mirror.end, MirrorEnd::kDisk);
  EXPECT_GT(mirror.standstill, absl::ZeroDuration());
  EXPECT_THAT(mirror.what, HasSubstr("file, made here"));
  // A second one from there.
  Begin(To(directory_ / "third.img"));
}

TEST_F(MirrorJobTest, TargetIsEqualAndAsSparse) {
  MirrorRequest request = To(target_);
  request.auto_complete = true;
  Begin(request);
  const MirrorStatus mirror = told_.AwaitOver();
  ASSERT_EQ(mirror.result.ToString(), "OK");
  EXPECT_TRUE(FileContent(target_) == FileContent(root_));
  struct stat old = {};
  struct stat now = {};
  ASSERT_EQ(stat(root_.c_str(), &old), 0);
  ASSERT_EQ(stat(target_.c_str(), &now), 0);
  EXPECT_LE(now.st_blocks, old.st_blocks / 2 + 16) << "zeroes that were found in data are no holes";
  EXPECT_EQ(now.st_size, old.st_size);
}

// 64 MiB of data in 100 GiB of holes.
TEST_F(MirrorJobTest, LargeSparseImageCostsWhatItsDataCosts) {
  constexpr uint64_t kLarge = uint64_t{100} << 30;
  constexpr uint64_t kPieces = 64;
  constexpr uint64_t kPiece = 1 << 20;
  const auto offset_of = [](uint64_t piece) { return piece * (kLarge / kPieces) + piece * (64 << 10); };
  const auto content_of = [](uint64_t piece) { return std::string(kPiece, static_cast<char>('A' + piece)); };
  const std::string large = directory_ / "large.img";
  const Fd fd(open(large.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(ftruncate(fd.get(), kLarge), 0);
  for (uint64_t piece = 0; piece < kPieces; ++piece) {
    ASSERT_EQ(pwrite(fd.get(), content_of(piece).data(), kPiece, static_cast<off_t>(offset_of(piece))),
              static_cast<ssize_t>(kPiece));
  }
  mirrors_.reset();
  auto image = DiskImage::Create(large, /*read_only=*/false);
  ASSERT_TRUE(image.ok()) << image.status();
  disks_ = std::make_unique<FakeDisks>(*std::move(image));
  mirrors_ = std::make_unique<WaitingMirrors>(*disks_, told_.Listener());
  ASSERT_TRUE(mirrors_->Start({.disk = "root", .target = target_, .auto_complete = true}).ok());
  const MirrorStatus mirror = told_.AwaitOver();
  ASSERT_EQ(mirror.result.ToString(), "OK");
  EXPECT_EQ(mirror.figures.total_bytes, kLarge);
  EXPECT_EQ(mirror.figures.copied_bytes, kPieces * kPiece);
  struct stat made = {};
  ASSERT_EQ(stat(target_.c_str(), &made), 0);
  EXPECT_EQ(static_cast<uint64_t>(made.st_size), kLarge);
  EXPECT_LE(static_cast<uint64_t>(made.st_blocks) * 512, kPieces * kPiece + (1 << 20)) << "holes were filled";
  const Fd copy(open(target_.c_str(), O_RDONLY | O_CLOEXEC));
  for (uint64_t piece = 0; piece < kPieces; ++piece) {
    std::string there(kPiece, '?');
    ASSERT_EQ(pread(copy.get(), there.data(), kPiece, static_cast<off_t>(offset_of(piece))),
              static_cast<ssize_t>(kPiece));
    EXPECT_TRUE(there == content_of(piece)) << piece;
  }
}

TEST_F(MirrorJobTest, CopyIsThatOfAnInstant) {
  StartWriter();
  Begin(To(target_));
  told_.AwaitState(MirrorState::kReady);
  StopWriter();
  ASSERT_EQ(mirrors_->Cancel("root", /*keep_copy=*/true).ToString(), "OK");
  const std::string then = FileContent(root_);
  EXPECT_TRUE(FileContent(target_) == then);
  EXPECT_FALSE(std::filesystem::exists(target_ + ".incomplete"));
  ExpectFree(target_);
  EXPECT_EQ(disks_->path(), root_);
  EXPECT_EQ(told_.AwaitOver().end, MirrorEnd::kKept);
  ASSERT_EQ(disks_->Write(0, std::string(4096, 'z')).ToString(), "OK");
  EXPECT_TRUE(FileContent(target_) == then);
}

TEST_F(MirrorJobTest, CancelledOneLeavesNothing) {
  StartWriter();
  Begin(To(target_));
  ASSERT_EQ(mirrors_->Cancel("root", /*keep_copy=*/false).ToString(), "OK");
  ExpectGone(target_);
  EXPECT_EQ(disks_->path(), root_);
  const MirrorStatus mirror = told_.AwaitOver();
  EXPECT_EQ(mirror.figures.state, MirrorState::kCancelled);
  EXPECT_TRUE(absl::IsCancelled(mirror.result)) << mirror.result;
  EXPECT_EQ(mirror.end, MirrorEnd::kRemoved);
  EXPECT_THAT(mirrors_->Complete("root").ToString(), HasSubstr("is over: cancelled"));
  EXPECT_THAT(mirrors_->Pause("root").ToString(), HasSubstr("is over: cancelled"));
}

TEST_F(MirrorJobTest, WriteBlockingOneHoldsWritesAndIsEqualAtOnce) {
  MirrorRequest request = To(target_);
  request.options.copy_mode = CopyMode::kWriteBlocking;
  StartWriter();
  Begin(request);
  told_.AwaitState(MirrorState::kReady);
  AwaitWrites(100);
  ASSERT_EQ(mirrors_->Complete("root").ToString(), "OK");
  EXPECT_GT(disks_->held_writes(), 0u);
  EXPECT_GT(told_.AwaitOver().figures.held_writes, 0u);
  AwaitWrites(10);  // nobody waits for the old one
}

// What the monitor does at its end, at each of a mirror's stages.
TEST_F(MirrorJobTest, EndOfTheMonitorCancels) {
  StartWriter();
  Begin(To(target_));
  mirrors_.reset();
  ExpectGone(target_);
  AwaitWrites(10);

  mirrors_ = std::make_unique<WaitingMirrors>(*disks_, told_.Listener());
  Begin(To(target_));
  told_.AwaitState(MirrorState::kReady);
  mirrors_->BeginEnd();
  EXPECT_TRUE(absl::IsUnavailable(mirrors_->Start(To(directory_ / "other.img")).status()));
  mirrors_.reset();
  ExpectGone(target_);
}

TEST_F(MirrorJobTest, PausedOneCopiesNothingAndCannotBeCompleted) {
  Begin(To(target_));
  told_.AwaitState(MirrorState::kReady);
  ASSERT_EQ(mirrors_->Pause("root").ToString(), "OK");
  ASSERT_EQ(disks_->Write(0, std::string(4096, 'z')).ToString(), "OK");
  const auto paused = mirrors_->Status("root");
  ASSERT_TRUE(paused.ok());
  EXPECT_EQ(paused->figures.state, MirrorState::kPaused);
  EXPECT_GT(paused->figures.dirty_bytes, 0u);
  EXPECT_THAT(mirrors_->Complete("root").ToString(), HasSubstr("is not ready: it is paused"));
  EXPECT_EQ(disks_->path(), root_);
  told_.AwaitState(MirrorState::kPaused);  // so that the first kReady is not what is told last
  ASSERT_EQ(mirrors_->Resume("root").ToString(), "OK");
  told_.AwaitState(MirrorState::kReady);
  EXPECT_EQ(mirrors_->Complete("root").ToString(), "OK");
  EXPECT_EQ(FileContent(target_)[0], 'z');
}

TEST_F(MirrorJobTest, LimitHoldsAndIsChanged) {
  MirrorRequest request = To(target_);
  request.options.max_bandwidth = 64 << 10;  // 16 s for what is not zero
  Begin(request);
  EXPECT_THAT(mirrors_->Complete("root").ToString(), HasSubstr("is not ready: it is running"));
  ASSERT_EQ(mirrors_->SetMaxBandwidth("root", 0).ToString(), "OK");
  EXPECT_LT(told_.AwaitState(MirrorState::kReady).figures.ready_after, absl::Seconds(10));
}

TEST_F(MirrorJobTest, RefusedOneLeavesNothing) {
  EXPECT_THAT(mirrors_->Start({.disk = "data", .target = target_}).status().ToString(),
              HasSubstr("NOT_FOUND: no disk data"));
  EXPECT_THAT(mirrors_->Start(To(root_)).status().ToString(), HasSubstr("is there already"));
  MirrorRequest itself = To(root_);
  itself.existing = true;
  EXPECT_THAT(mirrors_->Start(itself).status().ToString(), HasSubstr("is the disk itself"));
  MirrorRequest odd = To(target_);
  odd.options.granularity = 5000;
  EXPECT_FALSE(mirrors_->Start(odd).ok());
  ExpectGone(target_);
  EXPECT_FALSE(disks_->has_witness());
  EXPECT_EQ(mirrors_->List().size(), 0u);
  EXPECT_EQ(mirrors_->AllowsMove().ToString(), "OK");

  Begin(To(target_));
  EXPECT_THAT(mirrors_->Start(To(directory_ / "other.img")).status().ToString(), HasSubstr("is being mirrored to"));
  ExpectGone(directory_ / "other.img");
  EXPECT_THAT(mirrors_->AllowsMove().ToString(), HasSubstr("cannot move: disk root is being mirrored"));
}

// After its target was opened.
TEST_F(MirrorJobTest, OneThatDoesNotBeginLeavesItsTargetAsItWas) {
  class Witness final : public WriteWitness {
    uint64_t Wrote(uint64_t /*offset*/, uint64_t /*bytes*/) override { return 0; }
  } other;
  ASSERT_TRUE(disks_->SetWitness("root", &other).ok());
  const std::string empty = directory_ / "empty.img";
  const std::string full = directory_ / "full.img";
  const std::string content(kBytes, 'x');
  ASSERT_TRUE(Fd(open(empty.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600)).valid());
  const Fd file(open(full.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(pwrite(file.get(), content.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
  for (const std::string& target : {empty, full, target_}) {
    MirrorRequest request = To(target);
    request.existing = target != target_;
    EXPECT_THAT(mirrors_->Start(request).status().ToString(), HasSubstr("there is another one"));
    EXPECT_FALSE(std::filesystem::exists(target + ".incomplete")) << target;
  }
  EXPECT_EQ(std::filesystem::file_size(empty), 0u);
  EXPECT_TRUE(FileContent(full) == content);
  ExpectFree(full);
  ExpectGone(target_);
  ASSERT_TRUE(disks_->SetWitness("root", nullptr).ok());

  // One that began leaves the mark.
  MirrorRequest begun = To(full);
  begun.existing = true;
  Begin(begun);
  told_.AwaitState(MirrorState::kReady);
  EXPECT_EQ(mirrors_->Cancel("root", /*keep_copy=*/false).ToString(), "OK");
  EXPECT_TRUE(std::filesystem::exists(full + ".incomplete"));
}

// A server that says nothing: what else is asked for does not wait for it.
TEST_F(MirrorJobTest, StartWaitsForItsServerBesideAllElse) {
  const std::string socket = directory_ / "silent";
  Fd listening = ListenAtPath(socket);
  const Asked asked;
  mirrors_->mirrors().Start(To("nbd:unix:" + socket),
                            [done = asked.Done()](const absl::StatusOr<uint64_t>& number) { done(number.status()); });
  EXPECT_FALSE(asked.is_done());
  EXPECT_THAT(mirrors_->AllowsMove().ToString(), HasSubstr("cannot move: disk root is being mirrored to"));
  EXPECT_THAT(mirrors_->Start(To(target_)).status().ToString(), HasSubstr("is being mirrored to nbd:unix:"));
  EXPECT_EQ(mirrors_->List().size(), 0u);
  EXPECT_EQ(mirrors_->Status("root")->number, 0u);
  EXPECT_FALSE(disks_->has_witness());
  const Asked cancelled;
  mirrors_->mirrors().Cancel("root", /*keep_copy=*/false, cancelled.Done());
  listening.Reset();
  EXPECT_THAT(asked.Await().ToString(), HasSubstr(socket));
  EXPECT_THAT(cancelled.Await().ToString(), HasSubstr("is over: failed"));
  EXPECT_EQ(mirrors_->AllowsMove().ToString(), "OK");
  EXPECT_EQ(mirrors_->List().size(), 0u);
  Begin(To(target_));

  // And neither does the end, but for so long as a server may take to say something.
  mirrors_ = std::make_unique<WaitingMirrors>(*disks_, told_.Listener());
  listening = ListenAtPath(directory_ / "mute");
  const Asked ended;
  mirrors_->mirrors().Start(To("nbd:unix:" + (directory_ / "mute")),
                            [done = ended.Done()](const absl::StatusOr<uint64_t>& number) { done(number.status()); });
  mirrors_->BeginEnd();
  listening.Reset();
  mirrors_.reset();
  EXPECT_FALSE(ended.Await().ok());
  EXPECT_FALSE(disks_->has_witness());
}

// The machine says no at the last moment: it stays as it was, and so does its image.
TEST_F(MirrorJobTest, ImageThatTheMachineRefusesIsGivenUp) {
  disks_->refuses_image = absl::InternalError("the machine does not want it");
  StartWriter();
  Begin(To(target_));
  told_.AwaitState(MirrorState::kReady);
  EXPECT_THAT(mirrors_->Complete("root").ToString(), HasSubstr("does not want it"));
  const MirrorStatus mirror = told_.AwaitOver();
  EXPECT_EQ(mirror.figures.state, MirrorState::kFailed);
  EXPECT_EQ(mirror.end, MirrorEnd::kKept);
  EXPECT_EQ(disks_->path(), root_);
  AwaitWrites(10);
}

TEST_F(MirrorJobTest, ServerGetsAllAndCannotBeADisk) {
  const std::string served = directory_ / "served.img";
  const Fd file(open(served.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  ASSERT_EQ(ftruncate(file.get(), kBytes), 0);
  const auto server = NbdServer::Nbdkit(directory_, {"file", served});
  ASSERT_TRUE(server.ok()) << server.status();
  StartWriter();
  Begin(To(server->where()));
  told_.AwaitState(MirrorState::kReady);
  EXPECT_THAT(mirrors_->Complete("root").ToString(), HasSubstr("a machine's disk is a file or a block device"));
  EXPECT_EQ(mirrors_->Status("root")->figures.state, MirrorState::kReady);
  StopWriter();
  ASSERT_EQ(mirrors_->Cancel("root", /*keep_copy=*/true).ToString(), "OK");
  EXPECT_TRUE(FileContent(served) == FileContent(root_));
}

TEST_F(MirrorJobTest, AutomaticEndIsRefusedAtTheStartWhereItCannotBe) {
  const auto server = NbdServer::Nbdkit(directory_, {"memory", absl::StrCat(kBytes)});
  ASSERT_TRUE(server.ok()) << server.status();
  MirrorRequest request = To(server->where());
  request.auto_complete = true;
  EXPECT_THAT(mirrors_->Start(request).status().ToString(), HasSubstr("a machine's disk is a file or a block device"));
  EXPECT_FALSE(disks_->has_witness());
  EXPECT_EQ(mirrors_->List().size(), 0u);
}

// Nothing of an error at the target reaches who writes.
TEST_F(MirrorJobTest, FailedTargetFailsTheMirrorAlone) {
  const auto server =
      NbdServer::Nbdkit(directory_, {"--filter=error", "memory", absl::StrCat(kBytes), "error-pwrite=EIO",
                                     "error-pwrite-rate=20%", "error-zero=EIO", "error-zero-rate=100%"});
  ASSERT_TRUE(server.ok()) << server.status();
  StartWriter();
  Begin(To(server->where()));
  const MirrorStatus mirror = told_.AwaitOver();
  EXPECT_EQ(mirror.figures.state, MirrorState::kFailed);
  EXPECT_THAT(mirror.result.ToString(), HasSubstr("Input/output error"));
  EXPECT_EQ(mirror.end, MirrorEnd::kLeft);
  AwaitWrites(100);
}

TEST_F(MirrorJobTest, FullTargetIsWaitedFor) {
  // While the file is there, nothing has room.
  const std::string trigger = directory_ / "full";
  const Fd full(open(trigger.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
  const auto server = NbdServer::Nbdkit(directory_, {"--filter=error", "memory", absl::StrCat(kBytes), "error=ENOSPC",
                                                     "error-rate=100%", "error-file=" + trigger});
  ASSERT_TRUE(server.ok()) << server.status();
  MirrorRequest request = To(server->where());
  request.options.on_target_error = ErrorPolicy::kEnospc;
  StartWriter();
  Begin(request);
  EXPECT_THAT(told_.AwaitState(MirrorState::kPaused).figures.cause, HasSubstr("No space left on device"));
  AwaitWrites(100);
  // What is still in flight fails, too, and would stop it anew.
  told_.Await([](const MirrorStatus& mirror) { return mirror.figures.in_flight_bytes == 0; });
  ASSERT_TRUE(std::filesystem::remove(trigger));
  ASSERT_EQ(mirrors_->Resume("root").ToString(), "OK");
  told_.AwaitState(MirrorState::kReady);
}

TEST_F(MirrorJobTest, ServerThatDiesFailsTheMirrorAlone) {
  auto server = NbdServer::Nbdkit(directory_, {"memory", absl::StrCat(kBytes)});
  ASSERT_TRUE(server.ok()) << server.status();
  StartWriter();
  MirrorRequest request = To(server->where());
  request.options.copy_mode = CopyMode::kWriteBlocking;
  Begin(request);
  told_.AwaitState(MirrorState::kReady);
  server->process().Signal(SIGKILL);
  const MirrorStatus mirror = told_.AwaitOver();
  EXPECT_EQ(mirror.figures.state, MirrorState::kFailed);
  EXPECT_THAT(mirror.result.ToString(), HasSubstr(server->socket()));
  AwaitWrites(100);
}

// One that answers nothing any more: who writes waits for nothing, and an end comes.
TEST_F(MirrorJobTest, ServerThatHangsIsCutOff) {
  auto server = NbdServer::Nbdkit(directory_, {"memory", absl::StrCat(kBytes)});
  ASSERT_TRUE(server.ok()) << server.status();
  StartWriter();
  Begin(To(server->where()));
  told_.AwaitState(MirrorState::kReady);
  server->process().Signal(SIGSTOP);
  AwaitWrites(100);
  ASSERT_EQ(mirrors_->Cancel("root", /*keep_copy=*/false).ToString(), "OK");
  server->process().Signal(SIGCONT);
}

// Who waits for a copy that does not come can give it up.
TEST_F(MirrorJobTest, ServerThatHangsWhileACopyIsKeptIsCutOff) {
  auto server = NbdServer::Nbdkit(directory_, {"memory", absl::StrCat(kBytes)});
  ASSERT_TRUE(server.ok()) << server.status();
  StartWriter();
  Begin(To(server->where()));
  told_.AwaitState(MirrorState::kReady);
  server->process().Signal(SIGSTOP);
  absl::Status kept;
  std::atomic<bool> asked = false;
  Thread keeper = StartOrDie("keeper", [&] {
    asked = true;
    kept = mirrors_->Cancel("root", /*keep_copy=*/true);
  });
  while (!asked) {
    std::this_thread::yield();
  }
  AwaitWrites(100);
  (void)mirrors_->Cancel("root", /*keep_copy=*/false);
  const auto status = mirrors_->Status("root");
  ASSERT_TRUE(status.ok());
  EXPECT_TRUE(status->over);
  EXPECT_EQ(status->end, MirrorEnd::kLeft);
  keeper.Join();
  EXPECT_FALSE(kept.ok());
  AwaitWrites(100);
  server->process().Signal(SIGCONT);
}

}  // namespace
}  // namespace ferrite
