// Mirrors of a real image that tests write to as a guest would; no machine.
#ifndef FERRITE_VMM_MIRROR_MIRROR_JOB_RIG_H_
#define FERRITE_VMM_MIRROR_MIRROR_JOB_RIG_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "devices/block/disk_image.h"
#include "tests/fakes/fake_disks.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/told_mirror.h"
#include "tests/fakes/waiting_mirrors.h"
#include "vmm/mirror/nbd_server.h"

namespace ferrite {

// For tests that derive from it.
class MirrorJobRig : public testing::Test {
 protected:
  static constexpr uint64_t kBytes = uint64_t{8} << 20;
  static constexpr absl::Duration kPatience = absl::Seconds(60);

  void SetUp() override {
    // A quarter of it has data, every other chunk of which is zero.
    std::string content(kBytes / 4, '\0');
    for (uint64_t at = 0; at < content.size(); ++at) {
      content[at] = at / 65536 % 2 == 0 ? static_cast<char>(1 + at % 251) : '\0';
    }
    const Fd fd(open(root_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(pwrite(fd.get(), content.data(), content.size(), 0), static_cast<ssize_t>(content.size()));
    ASSERT_EQ(ftruncate(fd.get(), kBytes), 0);
    auto image = DiskImage::Create(root_, /*read_only=*/false);
    ASSERT_TRUE(image.ok()) << image.status();
    disks_ = std::make_unique<FakeDisks>(*std::move(image));
    mirrors_ = std::make_unique<WaitingMirrors>(*disks_, told_.Listener());
  }
  void TearDown() override {
    StopWriter();
    mirrors_.reset();
    EXPECT_FALSE(disks_->has_witness());
  }

  // Writes 4 KiB here and there, as fast as it goes, until StopWriter().
  void StartWriter() {
    writer_ = StartOrDie("writer", [this] {
      std::mt19937_64 random(1);
      for (uint64_t count = 0; !stop_writer_; ++count) {
        const uint64_t offset = random() % (kBytes / 4096) * 4096;
        const absl::Status written = disks_->Write(offset, std::string(4096, static_cast<char>('a' + count % 26)));
        EXPECT_TRUE(written.ok()) << written;
        ++writes_;
      }
    });
  }
  void StopWriter() {
    stop_writer_ = true;
    writer_.Join();
    stop_writer_ = false;
  }
  void AwaitWrites(uint64_t more) const {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    for (const uint64_t enough = writes_ + more; writes_ < enough;) {
      ASSERT_LT(MonotonicTime::Now(), deadline) << "nothing is written any more";
      std::this_thread::yield();
    }
  }

  MirrorRequest To(const std::string& target) {
    return {.disk = "root", .target = target, .options = {.granularity = 16 << 10, .buffer_bytes = 1 << 20}};
  }
  void Begin(const MirrorRequest& request) {
    const auto number = mirrors_->Start(request);
    ASSERT_TRUE(number.ok()) << number.status();
  }
  // Of a mirror that is over: nothing of it is there.
  void ExpectGone(const std::string& path) {
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_FALSE(std::filesystem::exists(path + ".incomplete"));
  }
  // Nobody has it.
  static void ExpectFree(const std::string& path) {
    const auto image = DiskImage::Create(path, /*read_only=*/false);
    EXPECT_TRUE(image.ok()) << image.status();
  }

  ShortDirectory directory_;
  const std::string root_ = directory_ / "root.img";
  const std::string target_ = directory_ / "new.img";
  ToldMirror told_;
  std::unique_ptr<FakeDisks> disks_;
  std::unique_ptr<WaitingMirrors> mirrors_;
  std::atomic<bool> stop_writer_{false};
  std::atomic<uint64_t> writes_{0};
  Thread writer_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_MIRROR_JOB_RIG_H_
