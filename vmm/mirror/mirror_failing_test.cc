// How a mirror ends, or does not, while a part of its target cannot be written and its errors are ignored: the guest's
// disk does not stand still for it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/waiting_mirrors.h"
#include "vmm/mirror/mirror_job_rig.h"

namespace ferrite {
namespace {

using migration::ErrorPolicy;
using migration::MirrorState;
using ::testing::HasSubstr;

class MirrorFailingTest : public MirrorJobRig {
 protected:
  static constexpr uint64_t kLast = 64 << 10;

  void SetUp() override {
    MirrorJobRig::SetUp();
    ASSERT_NE(signal(SIGXFSZ, SIG_IGN), SIG_ERR);
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &unlimited_), 0);
    ASSERT_EQ(disks_->Write(kBytes - kLast, std::string(kLast, 'l')).ToString(), "OK");
    const Fd target(open(target_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(target.get(), kBytes), 0);
  }
  void TearDown() override {
    Mend();
    MirrorJobRig::TearDown();
  }

  // No file can be written that far: EFBIG for the last part of the target.
  void Break() const {
    rlimit limit = unlimited_;
    limit.rlim_cur = kBytes - kLast;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  void Mend() const { ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &unlimited_), 0); }
  // Told of a write of what is there, which makes it dirty.
  void WriteLastAgain() {
    EXPECT_EQ(disks_->Change(kBytes - 4096, 4096, [](int) { return true; }).ToString(), "OK");
  }
  MirrorRequest Ignoring() {
    MirrorRequest request = To(target_);
    request.existing = true;
    request.options.on_target_error = ErrorPolicy::kIgnore;
    return request;
  }
  // Errors are told of with figures that are no longer those of before it.
  void AwaitErrors(uint64_t more) {
    const uint64_t before = mirrors_->Status("root")->figures.errors;
    told_.Await([&](const MirrorStatus& mirror) { return mirror.figures.errors >= before + more; });
  }

  rlimit unlimited_ = {};
};

TEST_F(MirrorFailingTest, ErrorDuringTheStandstillEndsIt) {
  Begin(Ignoring());
  told_.Await([](const MirrorStatus& mirror) {
    return mirror.figures.state == MirrorState::kReady &&
           mirror.figures.dirty_bytes + mirror.figures.in_flight_bytes == 0;
  });
  // What is written is copied in the standstill only.
  ASSERT_EQ(mirrors_->SetMaxBandwidth("root", 1).ToString(), "OK");
  ASSERT_EQ(disks_->Write(0, std::string(kLast, 'a')).ToString(), "OK");
  // But for the first operation, which the limit has to let go.
  told_.Await([](const MirrorStatus& mirror) {
    return mirror.figures.dirty_bytes > 0 && mirror.figures.dirty_bytes < kLast && mirror.figures.in_flight_bytes == 0;
  });
  WriteLastAgain();
  Break();
  EXPECT_THAT(
      mirrors_->Complete("root").ToString(),
      testing::AllOf(HasSubstr("FAILED_PRECONDITION: the rest could not be copied"), HasSubstr("File too large")));
  EXPECT_EQ(disks_->standstills, 1);
  const MirrorStatus mirror = *mirrors_->Status("root");
  EXPECT_LT(mirror.standstill, MirrorJob::kMostStandstill / 4);
  EXPECT_EQ(mirror.figures.state, MirrorState::kReady);
  EXPECT_EQ(disks_->path(), root_);
  EXPECT_EQ(disks_->Write(0, std::string(4096, 'b')).ToString(), "OK") << "it stands still no more";

  Mend();
  ASSERT_EQ(mirrors_->SetMaxBandwidth("root", 0).ToString(), "OK");
  told_.Await([](const MirrorStatus& now) { return now.figures.fits_downtime; });
  EXPECT_EQ(mirrors_->Complete("root").ToString(), "OK");
  EXPECT_EQ(disks_->path(), target_);
  EXPECT_TRUE(FileContent(target_) == FileContent(root_));
}

TEST_F(MirrorFailingTest, WhoCompletesIsToldWhatCannotBeCopied) {
  Begin(Ignoring());
  told_.AwaitState(MirrorState::kReady);
  Break();
  WriteLastAgain();
  AwaitErrors(1);
  for (const bool keep_copy : {false, true}) {
    const absl::Status status = keep_copy ? mirrors_->Cancel("root", keep_copy) : mirrors_->Complete("root");
    EXPECT_THAT(status.ToString(), testing::AllOf(HasSubstr("FAILED_PRECONDITION: what is left cannot be copied"),
                                                  HasSubstr("File too large")));
  }
  EXPECT_EQ(disks_->standstills, 0);
  EXPECT_THAT(mirrors_->Status("root")->figures.cause, HasSubstr("File too large"));
  Mend();
  told_.Await([](const MirrorStatus& now) { return now.figures.fits_downtime; });
  EXPECT_EQ(mirrors_->Cancel("root", /*keep_copy=*/true).ToString(), "OK");
  EXPECT_TRUE(FileContent(target_) == FileContent(root_));
}

TEST_F(MirrorFailingTest, OneThatCompletesByItselfWaitsForWhatFails) {
  MirrorRequest request = Ignoring();
  request.auto_complete = true;
  Break();
  Begin(request);
  told_.Await([](const MirrorStatus& mirror) { return mirror.figures.errors >= 4; });
  // So little is left that it may have been ready, and stood still, before the first error came.
  EXPECT_LE(disks_->standstills, 1);
  EXPECT_LT(mirrors_->Status("root")->standstill, MirrorJob::kMostStandstill / 4);
  EXPECT_THAT(mirrors_->Status("root")->figures.cause, HasSubstr("File too large"));
  EXPECT_EQ(disks_->Write(0, std::string(4096, 'b')).ToString(), "OK");
  Mend();
  EXPECT_EQ(told_.AwaitOver().result.ToString(), "OK");
  EXPECT_EQ(disks_->path(), target_);
  EXPECT_TRUE(FileContent(target_) == FileContent(root_));
}

// It fitted, and the error comes with the standstill, or just before it.
TEST_F(MirrorFailingTest, OneThatCompletesByItselfTriesAgainWhenItWasMended) {
  disks_->before_standstill = [this] {
    if (disks_->standstills == 1) {
      Break();
      WriteLastAgain();
    }
  };
  MirrorRequest request = Ignoring();
  request.auto_complete = true;
  Begin(request);
  told_.Await([](const MirrorStatus& mirror) { return mirror.figures.errors >= 3; });
  EXPECT_EQ(disks_->standstills, 1);
  EXPECT_LT(mirrors_->Status("root")->standstill, MirrorJob::kMostStandstill / 4);
  EXPECT_EQ(disks_->Write(0, std::string(4096, 'b')).ToString(), "OK");
  Mend();
  EXPECT_EQ(told_.AwaitOver().result.ToString(), "OK");
  EXPECT_EQ(disks_->standstills, 2);
  EXPECT_TRUE(FileContent(target_) == FileContent(root_));
}

}  // namespace
}  // namespace ferrite
