// How a mirror is completed while much is written: what is left is copied before the disk stands still.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/waiting_mirrors.h"
#include "vmm/mirror/mirror_job_rig.h"
#include "vmm/mirror/nbd_server.h"

namespace ferrite {
namespace {

using migration::CopyMode;
using migration::MirrorState;
using ::testing::HasSubstr;

class MirrorCompleteTest : public MirrorJobRig {
 protected:
  // A mirror that was ready once, has all of the disk to copy anew at `bandwidth` and is asked to complete.
  Asked CompleteAfterABurst(MirrorRequest request, uint64_t bandwidth) {
    request.options.downtime_limit = absl::Microseconds(100);
    Begin(request);
    told_.AwaitState(MirrorState::kReady);
    EXPECT_EQ(mirrors_->SetMaxBandwidth("root", bandwidth).ToString(), "OK");
    EXPECT_EQ(disks_->Write(0, std::string(kBytes, 'b')).ToString(), "OK");
    Asked asked;
    mirrors_->mirrors().Complete("root", asked.Done());
    return asked;
  }
  // Until it was told so once more, so that what it does by itself had its time.
  void AwaitTicks(int count) {
    for (absl::Duration took = told_.Await([](const MirrorStatus&) { return true; }).figures.took; count > 0; --count) {
      took = told_.Await([&](const MirrorStatus& mirror) { return mirror.figures.took > took; }).figures.took;
    }
  }
};

TEST_F(MirrorCompleteTest, DiskStandsStillForWhatFitsAlone) {
  const Asked asked = CompleteAfterABurst(To(target_), 64 << 10);
  AwaitTicks(3);
  // Nothing waits: neither who writes nor who asks for something else.
  EXPECT_FALSE(asked.is_done());
  EXPECT_EQ(disks_->standstills, 0);
  EXPECT_EQ(disks_->Write(0, std::string(4096, 'c')).ToString(), "OK");
  const MirrorStatus mirror = *mirrors_->Status("root");
  EXPECT_EQ(mirror.figures.state, MirrorState::kReady);
  EXPECT_FALSE(mirror.figures.fits_downtime);
  EXPECT_THAT(mirrors_->Complete("root").ToString(), HasSubstr("is being completed already"));
  EXPECT_THAT(mirrors_->Cancel("root", /*keep_copy=*/true).ToString(), HasSubstr("is being completed already"));
  // As soon as it does.
  EXPECT_EQ(mirrors_->SetMaxBandwidth("root", 0).ToString(), "OK");
  EXPECT_EQ(asked.Await().ToString(), "OK");
  EXPECT_EQ(disks_->path(), target_);
  EXPECT_TRUE(FileContent(target_) == FileContent(root_));
  EXPECT_EQ(FileContent(target_)[0], 'c');
}

TEST_F(MirrorCompleteTest, WritesAreBlockedWhereTheBackgroundDoesNotCatchUp) {
  const Asked asked = CompleteAfterABurst(To(target_), 4 << 20);
  StartWriter();
  EXPECT_EQ(asked.Await().ToString(), "OK");
  EXPECT_EQ(told_.AwaitOver().figures.copy_mode, CopyMode::kWriteBlocking);
  EXPECT_EQ(disks_->path(), target_);
  AwaitWrites(100);
}

TEST_F(MirrorCompleteTest, FailsWhereWhatIsLeftGetsNoLess) {
  MirrorRequest request = To(target_);
  request.options.turn_write_blocking = false;
  const Asked asked = CompleteAfterABurst(request, 64 << 10);
  StartWriter();
  const absl::Status status = asked.Await();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(status.ToString(), HasSubstr("does not fit the downtime limit, and gets no less"));
  EXPECT_EQ(mirrors_->Status("root")->figures.state, MirrorState::kReady);
  EXPECT_EQ(disks_->standstills, 0);
  EXPECT_EQ(disks_->path(), root_);
  StopWriter();
  EXPECT_EQ(mirrors_->SetMaxBandwidth("root", 0).ToString(), "OK");
  EXPECT_EQ(mirrors_->Complete("root").ToString(), "OK");
}

TEST_F(MirrorCompleteTest, PauseEndsIt) {
  const Asked asked = CompleteAfterABurst(To(target_), 64 << 10);
  EXPECT_EQ(mirrors_->Pause("root").ToString(), "OK");
  EXPECT_THAT(asked.Await().ToString(), HasSubstr("is paused before what is left fits the downtime limit"));
  EXPECT_EQ(mirrors_->SetMaxBandwidth("root", 0).ToString(), "OK");
  told_.AwaitState(MirrorState::kPaused);
  EXPECT_EQ(mirrors_->Resume("root").ToString(), "OK");
  told_.AwaitState(MirrorState::kReady);
  EXPECT_EQ(disks_->path(), root_);
  EXPECT_EQ(mirrors_->Complete("root").ToString(), "OK");
}

TEST_F(MirrorCompleteTest, CancelEndsIt) {
  const Asked asked = CompleteAfterABurst(To(target_), 64 << 10);
  EXPECT_EQ(mirrors_->Cancel("root", /*keep_copy=*/false).ToString(), "OK");
  EXPECT_THAT(asked.Await().ToString(), HasSubstr("is over: cancelled"));
  EXPECT_EQ(disks_->path(), root_);
  ExpectGone(target_);
}

TEST_F(MirrorCompleteTest, EndOfTheMonitorEndsIt) {
  const Asked asked = CompleteAfterABurst(To(target_), 64 << 10);
  mirrors_->BeginEnd();
  EXPECT_TRUE(absl::IsUnavailable(asked.Await())) << asked.Await();
  EXPECT_TRUE(absl::IsUnavailable(mirrors_->Complete("root")));
}

// It fitted when the disk was asked to stand still, and does not when it does: it goes on, and does so again.
TEST_F(MirrorCompleteTest, BurstBeforeTheStandstillIsCopiedFirst) {
  const auto server = NbdServer::Nbdkit(directory_, {"--filter=delay", "memory", absl::StrCat(kBytes), "wdelay=40ms"});
  ASSERT_TRUE(server.ok()) << server.status();
  disks_->before_standstill = [this] {
    if (disks_->standstills == 1) {
      EXPECT_EQ(disks_->Write(0, std::string(kBytes, 'b')).ToString(), "OK");
    }
  };
  MirrorRequest request = To(server->where());
  request.options.in_flight = 1;
  Begin(request);
  told_.AwaitState(MirrorState::kReady);
  EXPECT_EQ(mirrors_->Cancel("root", /*keep_copy=*/true).ToString(), "OK");
  EXPECT_GE(disks_->standstills, 2);
  // All of it takes 1.3 s.
  EXPECT_LT(told_.AwaitOver().standstill, absl::Milliseconds(500));
}

// What its host did not write is not known: it cannot be whole any more.
TEST_F(MirrorCompleteTest, OneWhoseTargetCannotBeWrittenOutFails) {
  const auto server =
      NbdServer::Nbdkit(directory_, {"eval", absl::StrCat("get_size=echo ", kBytes), "can_write=exit 0",
                                     "can_flush=exit 0", "can_zero=exit 0", "pread=exit 1", "pwrite=cat >/dev/null",
                                     "zero=exit 0", "flush=echo EIO the disk is broken >&2; exit 1"});
  ASSERT_TRUE(server.ok()) << server.status();
  Begin(To(server->where()));
  const MirrorStatus mirror = told_.AwaitOver();
  EXPECT_EQ(mirror.figures.state, MirrorState::kFailed);
  EXPECT_THAT(mirror.result.ToString(), HasSubstr("Input/output error"));
  EXPECT_EQ(disks_->standstills, 0);
  EXPECT_THAT(mirrors_->Complete("root").ToString(), HasSubstr("is over: failed"));
}

// Before anybody waits for that.
TEST_F(MirrorCompleteTest, TargetIsWrittenOutWhenItIsReady) {
  const std::string log = directory_ / "log";
  const auto server = NbdServer::Nbdkit(directory_, {"--filter=log", "memory", absl::StrCat(kBytes), "logfile=" + log});
  ASSERT_TRUE(server.ok()) << server.status();
  Begin(To(server->where()));
  told_.AwaitState(MirrorState::kReady);
  told_.Await([&](const MirrorStatus&) { return FileContent(log).find("Flush") != std::string::npos; });
}

}  // namespace
}  // namespace ferrite
