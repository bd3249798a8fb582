// What a destination makes of the machine that a source describes, and what it leaves when that ends early.
#include <capnp/message.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "base/fd.h"
#include "base/pinned_file.h"
#include "devices/block/disk_image.h"
#include "migration/api/machine_spec.h"
#include "proto/machine.capnp.h"
#include "proto/state.capnp.h"
#include "tests/fakes/captured_log.h"
#include "tests/fakes/spoilt_machine.h"
#include "tests/fakes/whole_spec.h"
#include "tests/integration/payload_machine.h"
#include "vmm/machine/movable_machine.h"
#include "vmm/move/arrival_options.h"
#include "vmm/move/boot_files.h"
#include "vmm/move/machine_arrival.h"
#include "vmm/move/machine_source.h"
#include "vmm/move/state_blob.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class ArrivalTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-arrival-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    disk_ = directory_ + "/disk";
    std::ofstream(disk_).close();
    ASSERT_EQ(truncate(disk_.c_str(), kMiB), 0);
    MachineConfig config;
    config.memory_bytes = 16 * kMiB;
    config.command_line = "mode=step set=4M report_ms=10";
    config.devices = {DiskConfig{.id = "root", .path = disk_}};
    auto run = PayloadMachine::Run("dirty", config);
    ASSERT_TRUE(run.ok()) << run.status();
    source_ = *std::move(run);
    auto there = PayloadMachine::Await();
    ASSERT_TRUE(there.ok()) << there.status();
    there_ = *std::move(there);
    const Fd directory(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    MachineSource source(source_->machine(), directory);
    const auto spec = migration::WholeSpec(source);
    ASSERT_TRUE(spec.ok()) << spec.status();
    ASSERT_EQ(CopyDescription(*spec, *description_), absl::OkStatus());
    regions_ = spec->regions;
    // The test's own may be a link.
    kernel_ = directory_ + "/kernel";
    std::filesystem::copy_file(PayloadPath("dirty"), kernel_);
    DescribeKernel(kernel_);
  }
  void TearDown() override {
    arrival_.reset();
    source_.reset();
    std::filesystem::remove_all(directory_);
  }

  state::MachineDescription::Builder described() { return description_->getRoot<state::MachineDescription>(); }
  migration::MachineSpec Spec() {
    migration::MachineSpec spec = EncodeDescription(*description_);
    spec.regions = regions_;
    return spec;
  }
  // Where all that the source has is allowed.
  ArrivalOptions Allowed() const { return {.disk_from = {directory_}, .boot_from = {directory_}}; }
  void Await(ArrivalOptions options) {
    options.name = "guest";
    auto arrival = MachineArrival::Create({.kvm = there_->host().kvm, .loop = there_->host().loop}, std::move(options));
    ASSERT_TRUE(arrival.ok()) << arrival.status();
    arrival_ = *std::move(arrival);
  }
  absl::StatusOr<std::unique_ptr<migration::DestinationMachine>> Build(const ArrivalOptions& options) {
    arrival_.reset();
    Await(options);
    return arrival_->Build(Spec());
  }
  absl::StatusOr<std::unique_ptr<migration::DestinationMachine>> Build() { return Build(Allowed()); }

  // What the peer hears, "" when it was built.
  std::string Refusal(const ArrivalOptions& options) {
    const auto port = Build(options);
    return port.ok() ? "" : std::string(port.status().message());
  }
  std::string Refusal() { return Refusal(Allowed()); }
  // What this host's log says of it.
  std::string Reason(const ArrivalOptions& options) {
    const CapturedLog log;
    EXPECT_NE(Refusal(options), "");
    return log.text();
  }
  std::string Reason() { return Reason(Allowed()); }
  // The guest arrives, and stays paused: its memory is not here.
  void Arrive(migration::DestinationMachine& port) {
    ASSERT_EQ(source_->machine().Pause(), absl::OkStatus());
    capnp::MallocMessageBuilder message;
    ASSERT_EQ(source_->machine().Save(message.initRoot<state::Machine>()), absl::OkStatus());
    message.getRoot<state::Machine>().setPaused(true);
    ASSERT_EQ(port.state().LoadState(EncodeState(message)), absl::OkStatus());
    ASSERT_EQ(source_->machine().moving().ReleaseDisks({}), absl::OkStatus());
    ASSERT_EQ(port.resources().AcquireDisks(), absl::OkStatus());
    ASSERT_EQ(port.guest().Run(), absl::OkStatus());
  }
  std::string MakeFile(const std::string& name, const std::string& text) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  static void Describe(const std::string& path, state::BootFile::Builder out) {
    auto file = PinnedFile::Find(path, PinnedFile::Links::kAll);
    ASSERT_TRUE(file.ok()) << file.status();
    DescribeBootFile({.file = *std::move(file), .content = std::nullopt}, /*ended=*/false, out);
  }
  void DescribeKernel(const std::string& path) {
    described().getBoot().setKernelPath(path);
    Describe(path, described().getBoot().initKernel());
  }
  void DescribeInitrd(const std::string& path) {
    described().getBoot().setInitrdPath(path);
    Describe(path, described().getBoot().initInitrd());
  }
  // Whether somebody has it locked.
  static bool InUse(const std::string& path) {
    const auto file = PinnedFile::Find(path, PinnedFile::Links::kAll);
    const auto look = DiskImage::LookAt(*file, /*read_only=*/false);
    EXPECT_TRUE(look.ok()) << look.status();
    return look.ok() && look->in_use;
  }

  std::string directory_;
  std::string disk_;
  std::string kernel_;
  std::vector<migration::MachineSpec::Region> regions_;
  const std::unique_ptr<capnp::MallocMessageBuilder> description_ = std::make_unique<capnp::MallocMessageBuilder>();
  std::unique_ptr<PayloadMachine> source_;
  std::unique_ptr<PayloadMachine> there_;
  std::unique_ptr<MachineArrival> arrival_;
};

// `stop` between GRANT and RUNNING: the source takes the disks as soon as it hears of it.
TEST_F(ArrivalTest, MachineThatIsStoppedBeforeItRanHasNoDisksAnyMore) {
  auto port = Build();
  ASSERT_TRUE(port.ok()) << port.status();
  for (const bool paused : {false, true}) {
    SCOPED_TRACE(paused);
    port = Build();
    ASSERT_TRUE(port.ok()) << port.status();
    ASSERT_EQ(source_->machine().Pause(), absl::OkStatus());
    capnp::MallocMessageBuilder message;
    ASSERT_EQ(source_->machine().Save(message.initRoot<state::Machine>()), absl::OkStatus());
    message.getRoot<state::Machine>().setPaused(paused);
    ASSERT_EQ((*port)->state().LoadState(EncodeState(message)), absl::OkStatus());
    ASSERT_EQ(source_->machine().moving().ReleaseDisks({}), absl::OkStatus());
    ASSERT_EQ((*port)->resources().AcquireDisks(), absl::OkStatus());
    EXPECT_FALSE(source_->machine().Resume().ok()) << "R2: the disk is the other's";
    arrival_->machine()->Stop();
    EXPECT_FALSE((*port)->guest().Run().ok());
    EXPECT_EQ(source_->machine().Resume(), absl::OkStatus()) << "R3";
  }
}

TEST_F(ArrivalTest, DiskThatTheSourceNamesIsTakenOnlyWhileItIsInUse) {
  EXPECT_EQ(Refusal(), "");
  ASSERT_EQ(source_->machine().Pause(), absl::OkStatus());
  ASSERT_EQ(source_->machine().moving().ReleaseDisks({}), absl::OkStatus());
  const std::string reason = Reason();
  EXPECT_THAT(reason, HasSubstr("disk root: " + disk_ + " is not open here as the source's disk would be"));
  EXPECT_THAT(reason, HasSubstr("`ferrite receive --disk root=PATH`"));
  ArrivalOptions operators = Allowed();
  operators.disk_paths = {{"root", disk_}};
  operators.trust_disks = true;
  EXPECT_EQ(Refusal(operators), "") << "the operator's word";
  // Somebody who only reads it holds it otherwise than the source of a disk to write to would.
  auto reader = DiskImage::Create(disk_, /*read_only=*/true);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_THAT(Reason(), HasSubstr("is not open here"));
  described().getDisks()[0].setReadOnly(true);
  EXPECT_EQ(Refusal(), "");
}

// A reader's lock is no permission for others.
TEST_F(ArrivalTest, PathThatTheUserDoesNotAllowIsNotOpened) {
  ASSERT_EQ(source_->machine().Pause(), absl::OkStatus());
  ASSERT_EQ(source_->machine().moving().ReleaseDisks({}), absl::OkStatus());
  auto tenant = DiskImage::Create(disk_, /*read_only=*/true);
  ASSERT_TRUE(tenant.ok()) << tenant.status();
  described().getDisks()[0].setReadOnly(true);
  const Fd events(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  ASSERT_GE(inotify_add_watch(events.get(), directory_.c_str(), IN_OPEN | IN_ACCESS), 0);
  const std::string elsewhere = directory_ + "/elsewhere";
  std::filesystem::create_directory(elsewhere);
  const auto opened = [&] {
    char event[512];
    return read(events.get(), event, sizeof(event)) > 0;
  };
  for (const std::vector<std::string>& from : {std::vector<std::string>(), std::vector<std::string>{elsewhere}}) {
    const std::string disk = Refusal({.disk_from = from, .kernel_path = PayloadPath("dirty")});
    EXPECT_THAT(disk, HasSubstr("disk root: its image cannot be used here"));
    EXPECT_THAT(disk, HasSubstr("`ferrite receive --disk root=PATH`"));
    EXPECT_THAT(disk, HasSubstr("`--disk-from DIR`"));
    const std::string kernel = Refusal({.disk_from = {directory_}, .boot_from = from});
    EXPECT_THAT(kernel, HasSubstr("its kernel and initrd cannot be used here"));
    EXPECT_THAT(kernel, HasSubstr("`ferrite receive --kernel FILE [--initrd FILE]`"));
    EXPECT_THAT(kernel, HasSubstr("`--boot-from DIR`"));
    EXPECT_THAT(kernel, HasSubstr("--no-reboot"));
    EXPECT_FALSE(opened());
    EXPECT_THAT(
        Reason({.disk_from = from, .kernel_path = PayloadPath("dirty")}),
        HasSubstr("disk root: " + disk_ + " is below no directory that `ferrite receive --disk-from DIR` names"));
    EXPECT_THAT(
        Reason({.disk_from = {directory_}, .boot_from = from}),
        HasSubstr("kernel: " + kernel_ + " is below no directory that `ferrite receive --boot-from DIR` names"));
  }
  EXPECT_EQ(Refusal(), "");
  EXPECT_TRUE(opened());
}

// Nothing of this host is learnt by naming its paths.
TEST_F(ArrivalTest, PeerHearsTheSameWhateverIsTheMatterWithAPathThatItNames) {
  const std::string link = directory_ + "/link";
  std::filesystem::create_symlink(disk_, link);
  const std::string fifo = directory_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const std::string other = MakeFile("other", std::string(2 * kMiB, 'x'));
  const std::string idle = MakeFile("idle", std::string(kMiB, 'x'));
  const std::string read = MakeFile("read", std::string(kMiB, 'x'));
  const auto reader = DiskImage::Create(read, /*read_only=*/true);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const std::pair<std::string, const char*> disks[] = {
      {directory_ + "/missing", "No such file or directory"},
      {directory_, "is below no directory"},
      {directory_ + "/.", "is below no directory"},
      {link, "there is a link in its path"},
      {fifo, "is a special file"},
      {other, "it is not the same disk"},
      {idle, "is not open here as the source's disk would be"},
      {read, "is not open here as the source's disk would be"},
      {MakeFile("odd", "odd"), "not a multiple of 512"},
      {MakeFile("empty", ""), "is empty"},
      {"/etc/shadow", "is below no directory"},
      {"/dev/mem", "is below no directory"},
  };
  std::set<std::string> answers;
  for (const auto& [path, reason] : disks) {
    described().getDisks()[0].setPath(path);
    EXPECT_THAT(Reason(), HasSubstr(reason)) << path;
    answers.insert(Refusal());
    EXPECT_THAT(*answers.begin(), Not(HasSubstr(directory_)));
  }
  EXPECT_EQ(answers.size(), 1u) << testing::PrintToString(answers);
  described().getDisks()[0].setPath(disk_);
  // Of what the user names himself there is no more to hear.
  for (const std::string& path : {other, directory_, fifo}) {
    ArrivalOptions options = Allowed();
    options.disk_paths = {{"root", path}};
    EXPECT_EQ(Refusal(options), *answers.begin()) << path;
  }
  ArrivalOptions options = Allowed();
  options.disk_paths = {{"root", disk_}, {"data", other}};
  EXPECT_THAT(Refusal(options), HasSubstr("no disk with the id data"));
  EXPECT_THAT(Refusal(options), Not(HasSubstr(other)));
  EXPECT_EQ(Refusal(), "");

  const std::pair<std::string, const char*> kernels[] = {
      {directory_ + "/missing", "No such file or directory"},
      {directory_ + "/.", "is below no directory"},
      {link, "there is a link in its path"},
      {fifo, "no regular file"},
      {other, "here is not the source's"},
      {"/etc/shadow", "is below no directory"},
  };
  answers.clear();
  for (const auto& [path, reason] : kernels) {
    described().getBoot().setKernelPath(path);
    EXPECT_THAT(Reason(), HasSubstr(reason)) << path;
    answers.insert(Refusal());
    described().getBoot().setKernelPath(kernel_);
    DescribeInitrd(kernel_);
    described().getBoot().setInitrdPath(path);
    EXPECT_THAT(Reason(), HasSubstr(reason)) << path;
    answers.insert(Refusal());
    described().getBoot().setInitrdPath("");
    EXPECT_THAT(*answers.begin(), Not(HasSubstr(directory_)));
  }
  EXPECT_EQ(answers.size(), 1u) << testing::PrintToString(answers);
}

// Between MACHINE and GRANT the source may do much to a directory that it can write to; when the user has named the
// image himself, before MACHINE, too.
TEST_F(ArrivalTest, ImageThatIsReplacedIsNotTaken) {
  ASSERT_EQ(source_->machine().Pause(), absl::OkStatus());
  const std::string moved = directory_ + "/moved";
  for (const bool named : {false, true}) {
    for (const bool link : {false, true}) {
      SCOPED_TRACE(testing::Message() << named << link);
      const std::string victim = MakeFile("victim", std::string(kMiB, 'v'));
      ASSERT_EQ(source_->machine().moving().AcquireDisks(), absl::OkStatus());
      ArrivalOptions options = Allowed();
      if (named) {
        options.disk_paths = {{"root", disk_}};
      }
      const auto replace = [&] {
        std::filesystem::rename(disk_, moved);
        if (link) {
          std::filesystem::create_symlink(victim, disk_);
        } else {
          std::filesystem::rename(victim, disk_);
        }
      };
      arrival_.reset();
      Await(options);
      if (named) {
        replace();
      }
      auto port = arrival_->Build(Spec());
      ASSERT_TRUE(port.ok()) << port.status();
      if (!named) {
        replace();
      }
      ASSERT_EQ(source_->machine().moving().ReleaseDisks({}), absl::OkStatus());
      EXPECT_EQ((*port)->resources().AcquireDisks(), absl::OkStatus());
      EXPECT_FALSE(InUse(disk_)) << "what the link leads to, or the other file";
      EXPECT_TRUE(InUse(moved));
      // The source takes back what it had, too.
      ASSERT_EQ(arrival_->machine()->moving().ReleaseDisks({}), absl::OkStatus());
      EXPECT_EQ(source_->machine().moving().AcquireDisks(), absl::OkStatus());
      EXPECT_FALSE(InUse(disk_));
      EXPECT_TRUE(InUse(moved));
      port->reset();
      std::filesystem::remove(disk_);
      std::filesystem::rename(moved, disk_);
    }
  }
}

TEST_F(ArrivalTest, PeerDoesNotHearWhoHasADiskAtTheSwitchover) {
  auto port = Build();
  ASSERT_TRUE(port.ok()) << port.status();
  const CapturedLog log;
  const absl::Status status = (*port)->resources().AcquireDisks();
  EXPECT_EQ(status.message(), "a disk of the machine cannot be taken here, and the log of the destination says why");
  EXPECT_THAT(log.text(), HasSubstr("disk image " + disk_ + " is in use by "));
}

// Of the same size, but not the same.
TEST_F(ArrivalTest, AnotherDiskThanTheSourcesIsRefusedWhereThatShows) {
  char name[] = "/dev/shm/ferrite-arrival-XXXXXX";
  const int fd = mkstemp(name);
  ASSERT_GE(fd, 0);
  const absl::Cleanup remove = [&] {
    close(fd);
    unlink(name);
  };
  ASSERT_EQ(ftruncate(fd, kMiB), 0);
  ArrivalOptions options{.disk_paths = {{"root", name}}, .boot_from = {directory_}};
  const std::string reason = Reason(options);
  EXPECT_THAT(reason, HasSubstr(std::string(name) + " is on a file system of this host alone, and nobody has it open"));
  EXPECT_THAT(reason, HasSubstr("`ferrite receive --trust-disks`"));
  options.trust_disks = true;
  EXPECT_EQ(Refusal(options), "");
  options.trust_disks = false;
  EXPECT_EQ(Refusal({.disk_paths = {{"root", disk_}}, .boot_from = {directory_}}), "") << "the source's";
  described().getDisks()[0].setReadOnly(true);
  EXPECT_EQ(Refusal(options), "") << "a copy of what is only read";
}

// A peer that names any file of the host must not have the guest write to it, nor keep its owner from it.
TEST_F(ArrivalTest, DiskIsNotOpenedForWritingBeforeItIsTaken) {
  ASSERT_EQ(source_->machine().Pause(), absl::OkStatus());
  ASSERT_EQ(source_->machine().moving().ReleaseDisks({}), absl::OkStatus());
  const int fd = open(disk_.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const absl::Cleanup close_it = [&] { close(fd); };
  EXPECT_EQ(Refusal({.disk_paths = {{"root", disk_}}, .trust_disks = true, .boot_from = {directory_}}), "");
  // A lease of this kind is given only when nobody has the file open for writing.
  EXPECT_EQ(fcntl(fd, F_SETLEASE, F_RDLCK), 0);
}

TEST_F(ArrivalTest, KernelAndInitrdThatTheSourceNamesAreTakenIfTheyAreTheSame) {
  EXPECT_EQ(Refusal(), "");
  EXPECT_EQ(arrival_->machine()->config().kernel_path, kernel_);
  const std::string initrd = MakeFile("initrd", "a RAM disk");
  DescribeInitrd(initrd);
  EXPECT_EQ(Refusal(), "");
  EXPECT_EQ(arrival_->machine()->config().initrd_path, initrd);

  // As if there was another file at the destination.
  for (const char* other : {"a RAM disc", "a longer RAM disk", ""}) {
    MakeFile("initrd", other);
    const std::string reason = Reason();
    EXPECT_THAT(reason, HasSubstr("initrd " + initrd + " here is not the source's"));
    EXPECT_THAT(reason, HasSubstr("`ferrite receive --kernel FILE [--initrd FILE]`"));
    EXPECT_THAT(reason, HasSubstr("--no-reboot"));
  }
  std::filesystem::remove(initrd);
  EXPECT_THAT(Reason(), HasSubstr("initrd: " + initrd + ": No such file"));
  MakeFile("initrd", "a RAM disk");
  EXPECT_EQ(Refusal(), "");
}

// What the source says of its own files is not this host's.
TEST_F(ArrivalTest, KernelWithoutProofIsRefused) {
  described().getBoot().disownKernel();
  EXPECT_THAT(Refusal(), HasSubstr("kernel: the source does not say what is in it"));
  described().getBoot().initKernel().initSha256(31);
  EXPECT_THAT(Refusal(), HasSubstr("the source does not say what is in it"));
  described().getBoot().initKernel().setProblem("/vmlinuz: Permission denied");
  EXPECT_THAT(Refusal(), HasSubstr("the source cannot read its own any more: /vmlinuz: Permission denied"));
  const std::string huge = MakeFile("huge", "");
  std::filesystem::resize_file(huge, uint64_t{5} << 30);
  DescribeKernel(huge);
  EXPECT_THAT(Refusal(), HasSubstr("huge: more than 4 GiB"));
  described().getBoot().initKernel().initSha256(32);
  EXPECT_THAT(Reason(), HasSubstr("huge: more than 4 GiB"));
}

// A guest that resets sees what its kernel and initrd were when it came, or nothing.
TEST_F(ArrivalTest, ResetBootsWhatWasLookedAtOrNothing) {
  const std::string initrd = MakeFile("initrd", "a RAM disk");
  DescribeInitrd(initrd);
  auto port = Build();
  ASSERT_TRUE(port.ok()) << port.status();
  ASSERT_NO_FATAL_FAILURE(Arrive(**port));
  Machine& machine = *arrival_->machine();
  const auto at_initrd = [&] {
    const std::span<uint8_t> ram = machine.memory().regions()[0]->guest_mapping();
    return std::string(reinterpret_cast<const char*>(ram.data()) + ram.size() - 4096, 10);
  };
  const std::string moved = directory_ + "/moved";
  const std::string secret = MakeFile("secret", "the secret");
  std::filesystem::rename(initrd, moved);
  std::filesystem::create_symlink(secret, initrd);
  std::filesystem::remove(kernel_);
  ASSERT_EQ(machine.Reset(), absl::OkStatus());
  EXPECT_EQ(at_initrd(), "a RAM disk");
  // And it moves on as what it is.
  const Fd directory(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  MachineSource source(machine, directory);
  const auto spec = migration::WholeSpec(source);
  ASSERT_TRUE(spec.ok()) << spec.status();
  capnp::MallocMessageBuilder message;
  ASSERT_EQ(CopyDescription(*spec, message), absl::OkStatus());
  const auto onward = message.getRoot<state::MachineDescription>().asReader().getBoot().getInitrd().getSha256();
  const auto here = described().asReader().getBoot().getInitrd().getSha256();
  EXPECT_TRUE(std::equal(onward.begin(), onward.end(), here.begin(), here.end()));

  std::ofstream(moved) << "a RAM disc";
  const absl::Status status = machine.Reset();
  EXPECT_THAT(status.message(),
              HasSubstr("initrd " + initrd + " has other content now than when the machine came here"));
  EXPECT_NE(machine.state(), MachineState::kStopped);
  EXPECT_EQ(at_initrd(), "a RAM disk") << "nothing was touched";
  std::ofstream(moved) << "a RAM disk";
  EXPECT_EQ(machine.Reset(), absl::OkStatus());
}

TEST_F(ArrivalTest, KernelOfTheOperatorNeedsNoProof) {
  described().getBoot().setKernelPath("/nowhere/vmlinuz");
  described().getBoot().setInitrdPath("/nowhere/initrd");
  const std::string kernel = PayloadPath("dirty");
  ArrivalOptions options{.disk_from = {directory_}, .kernel_path = kernel};
  ASSERT_EQ(Refusal(options), "");
  EXPECT_EQ(arrival_->machine()->config().kernel_path, kernel);
  EXPECT_EQ(arrival_->machine()->config().initrd_path, "") << "the source's is not that kernel's";
  options.initrd_path = kernel;
  ASSERT_EQ(Refusal(options), "");
  EXPECT_EQ(arrival_->machine()->config().initrd_path, kernel);
}

TEST_F(ArrivalTest, MachineThatDoesNotBootAgainNeedsNoKernel) {
  described().setRebootOnReset(false);
  described().getBoot().setKernelPath("/nowhere/vmlinuz");
  ASSERT_EQ(Refusal({.disk_from = {directory_}}), "");
  EXPECT_EQ(arrival_->machine()->config().kernel_path, "");
}

}  // namespace
}  // namespace ferrite
