// A real Linux guest in a ferrite machine on real (nested) KVM: what a user does with the command `ferrite`, and what
// the guest sees. Each test boots a guest of its own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "tests/nested/linux_guest.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr char kTimeout[] = "150";  // seconds, of commands that wait for the machine; less than kCommandDeadline

#define ASSERT_GUEST(guest, options)                   \
  auto guest##_or = LinuxGuest::Boot(options);         \
  ASSERT_TRUE(guest##_or.ok()) << guest##_or.status(); \
  LinuxGuest& guest = **guest##_or

class LinuxTest : public ::testing::Test {
 protected:
  LinuxTest() { std::filesystem::create_directories(TestRunDir()); }

  LinuxGuest::Options Options() {
    LinuxGuest::Options options;
    options.name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    return options;
  }

  // An ext4 image of this test's own.
  static std::string Disk() {
    std::string path = absl::StrCat(getenv("TEST_TMPDIR"), "/disk.img");
    std::filesystem::copy_file("tests/nested/disk.img", path, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::permissions(path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
    return path;
  }

  static std::string Answer(LinuxGuest& guest, absl::string_view line) {
    auto answer = guest.Run(line);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : "";
  }

  static uint64_t HostMemory(const LinuxGuest& guest) {
    auto bytes = guest.HostMemoryBytes();
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? *bytes : 0;
  }

  static void ExpectOk(const absl::StatusOr<Finished>& finished) {
    ASSERT_TRUE(finished.ok()) << finished.status();
    EXPECT_EQ(finished->code, 0) << finished->output;
  }

  // Powers the guest off and expects that the monitor ends well and leaves no machine behind.
  static void PowerOff(LinuxGuest& guest) {
    ASSERT_TRUE(guest.Send("poweroff -f").ok());
    auto code = guest.WaitForExit();
    ASSERT_TRUE(code.ok()) << code.status();
    EXPECT_EQ(*code, 0) << guest.monitor().output();
    EXPECT_FALSE(std::filesystem::exists(guest.RunDir()));
  }
};

TEST_F(LinuxTest, BootsWithOneCpuAndPowersOff) {
  ASSERT_GUEST(guest, Options());
  EXPECT_EQ(Answer(guest, "nproc"), "1\n");
  EXPECT_THAT(Answer(guest, "cat /proc/cmdline"), HasSubstr("console=ttyS0"));
  // KVM's own clock: the CPUID leaves of the hypervisor arrived.
  EXPECT_EQ(Answer(guest, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource"), "kvm-clock\n");
  PowerOff(guest);
}

TEST_F(LinuxTest, BootsWithTwoCpusThatBothWork) {
  LinuxGuest::Options options = Options();
  options.cpus = 2;
  ASSERT_GUEST(guest, options);
  EXPECT_EQ(Answer(guest, "nproc"), "2\n");
  EXPECT_EQ(Answer(guest, "cat /sys/devices/system/cpu/online"), "0-1\n");
  for (int cpu = 0; cpu < 2; ++cpu) {
    EXPECT_EQ(Answer(guest, absl::StrCat("taskset ", 1 << cpu, " sh -c 'echo works'")), "works\n") << "CPU " << cpu;
  }
  PowerOff(guest);
}

TEST_F(LinuxTest, MemoryBeyondTheHoleBelowFourGibIsThere) {
  LinuxGuest::Options options = Options();
  options.memory = "3200M";
  ASSERT_GUEST(guest, options);
  uint64_t kib = 0;
  ASSERT_TRUE(absl::SimpleAtoi(Answer(guest, "awk '/MemTotal/ {print $2}' /proc/meminfo"), &kib));
  EXPECT_GT(kib, uint64_t{2900} << 10);
  EXPECT_THAT(Answer(guest, "cat /proc/iomem"), HasSubstr("100000000-"));
  PowerOff(guest);
}

TEST_F(LinuxTest, DiskKeepsAcrossARebootWhatTheGuestWrote) {
  LinuxGuest::Options options = Options();
  options.more_arguments = {"--disk", absl::StrCat("id=data,path=", Disk())};
  ASSERT_GUEST(guest, options);
  Answer(guest, "mount /dev/vda /mnt");
  Answer(guest, "dd if=/dev/urandom of=/mnt/file bs=64k count=64 2>/dev/null");
  std::string written = Answer(guest, "md5sum /mnt/file");
  Answer(guest, "umount /mnt");

  ASSERT_TRUE(guest.Send("reboot -f").ok());
  ASSERT_TRUE(guest.WaitUntilReady().ok());
  Answer(guest, "mount /dev/vda /mnt");
  EXPECT_EQ(Answer(guest, "md5sum /mnt/file"), written);
  EXPECT_EQ(Answer(guest, "cat /sys/block/vda/serial"), "data");
  Answer(guest, "umount /mnt");
  PowerOff(guest);
}

TEST_F(LinuxTest, ReadOnlyDiskRefusesToBeWritten) {
  LinuxGuest::Options options = Options();
  options.more_arguments = {"--disk", absl::StrCat("path=", Disk(), ",ro")};
  ASSERT_GUEST(guest, options);
  EXPECT_EQ(Answer(guest, "cat /sys/block/vda/ro"), "1\n");
  EXPECT_FALSE(guest.Run("dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync").ok());
  PowerOff(guest);
}

TEST_F(LinuxTest, TwoMonitorsNeverWriteOneDisk) {
  LinuxGuest::Options options = Options();
  const std::string disk = absl::StrCat("path=", Disk());
  options.more_arguments = {"--disk", disk};
  ASSERT_GUEST(guest, options);
  options.name = "second";
  auto second = LinuxGuest::Boot(options);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("disk.img"));
  EXPECT_EQ(Answer(guest, "echo alive"), "alive\n");
  PowerOff(guest);
}

TEST_F(LinuxTest, BalloonGivesMemoryToTheHostAndBack) {
  LinuxGuest::Options options = Options();
  options.memory = "192M";
  options.more_arguments = {"--balloon", "0"};
  ASSERT_GUEST(guest, options);
  constexpr char kUseMemory[] = "dd if=/dev/zero of=/tmp/used bs=1M count=64 2>/dev/null";
  Answer(guest, kUseMemory);
  const uint64_t full = HostMemory(guest);
  ASSERT_GT(full, 96 * kMiB);
  Answer(guest, "rm /tmp/used");

  ExpectOk(guest.Command("balloon", {"96M", "--wait", "--timeout", kTimeout}));
  const uint64_t half = HostMemory(guest);
  // What the guest has left, and the monitor itself.
  EXPECT_LT(half, (96 + 12) * kMiB);
  EXPECT_LT(half, full - 32 * kMiB);

  ExpectOk(guest.Command("balloon", {"0", "--wait", "--timeout", kTimeout}));
  Answer(guest, kUseMemory);
  EXPECT_GT(HostMemory(guest), half + 32 * kMiB);
  PowerOff(guest);
}

TEST_F(LinuxTest, RandomNumbersComeFromTheHost) {
  LinuxGuest::Options options = Options();
  options.more_arguments = {"--rng"};
  ASSERT_GUEST(guest, options);
  EXPECT_THAT(Answer(guest, "cat /sys/class/misc/hw_random/rng_current"), HasSubstr("virtio_rng"));
  EXPECT_NE(Answer(guest, "head -c 16 /dev/hwrng | md5sum"), Answer(guest, "head -c 16 /dev/hwrng | md5sum"));
  PowerOff(guest);
}

TEST_F(LinuxTest, PausedGuestStandsStillAndGoesOn) {
  ASSERT_GUEST(guest, Options());
  ExpectOk(guest.Command("pause", {"--timeout", kTimeout}));
  ASSERT_TRUE(guest.Send("echo heard").ok());
  auto answer = guest.monitor().ReadUntil("heard", absl::Seconds(2));
  EXPECT_EQ(answer.status().code(), absl::StatusCode::kDeadlineExceeded);
  ExpectOk(guest.Command("resume", {"--timeout", kTimeout}));
  EXPECT_TRUE(guest.monitor().ReadUntil("guest: status 0\n", kCommandDeadline).ok());
  PowerOff(guest);
}

TEST_F(LinuxTest, ResetFromOutsideBootsAnew) {
  ASSERT_GUEST(guest, Options());
  Answer(guest, "touch /tmp/before");
  ExpectOk(guest.Command("reset", {"--timeout", kTimeout}));
  ASSERT_TRUE(guest.WaitUntilReady().ok());
  EXPECT_FALSE(guest.Run("test -e /tmp/before").ok());
  PowerOff(guest);
}

TEST_F(LinuxTest, PanicBootsAnew) {
  ASSERT_GUEST(guest, Options());
  ASSERT_TRUE(guest.Send("echo c >/proc/sysrq-trigger").ok());
  ASSERT_TRUE(guest.WaitUntilReady().ok());
  PowerOff(guest);
}

TEST_F(LinuxTest, ResetEndsTheMachineThatShallNotReboot) {
  LinuxGuest::Options options = Options();
  options.more_arguments = {"--no-reboot"};
  ASSERT_GUEST(guest, options);
  ASSERT_TRUE(guest.Send("reboot -f").ok());
  auto code = guest.WaitForExit();
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(*code, 0) << guest.monitor().output();
}

TEST_F(LinuxTest, StopEndsTheMachineFromOutside) {
  ASSERT_GUEST(guest, Options());
  ExpectOk(guest.Command("stop", {"--timeout", kTimeout}));
  auto code = guest.WaitForExit();
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(*code, 0) << guest.monitor().output();
  EXPECT_FALSE(std::filesystem::exists(guest.RunDir()));
}

}  // namespace
}  // namespace ferrite
