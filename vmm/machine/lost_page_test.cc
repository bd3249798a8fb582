// A guest touches memory that the host lost (R9): the payload guest "lost" on real KVM.
#include "tests/fakes/lost_page.h"

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/state.capnp.h"
#include "tests/fakes/guest_console.h"
#include "tests/fakes/huge_page_pool.h"
#include "tests/fakes/machine_harness.h"
#include "tests/fakes/test_place.h"
#include "vmm/machine/machine.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;

constexpr GuestAddress kPage{0x1000000};  // as lost.S
constexpr uint64_t kInside = 0x5000;
constexpr absl::Duration kPatience = absl::Seconds(60);

class LostPageTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status status = PageLoser::Supported(); !status.ok()) {
      GTEST_SKIP() << status;
    }
  }

  void Start(const std::string& mode, MemoryBacking backing = MemoryBacking::kAnonymous, uint32_t cpus = 1) {
    MachineConfig config = MachineHarness::Config("lost", mode, cpus);
    config.memory_backing = backing;
    machine_ = harness_.Create(config, &console_);
    machine_->SetListener([this](const MachineEvent& event) {
      if (event.kind == MachineEvent::Kind::kStopped) {
        console_.SetStopped(true, event.text);
      } else if (event.kind == MachineEvent::Kind::kLostPage) {
        absl::MutexLock lock(&mutex_);
        told_.push_back(event.text);
      }
    });
    ASSERT_EQ(machine_->Boot().ToString(), "OK");
    ASSERT_EQ(machine_->Resume().ToString(), "OK");
    ASSERT_TRUE(console_.Next("ready", kPatience).has_value());
  }
  void Lose() { ASSERT_EQ(loser_.Lose(*machine_->memory().Find(kPage), kPage.value()).ToString(), "OK"); }
  void Touch() { ASSERT_EQ(console_.Send('t', kPatience).ToString(), "OK"); }
  std::vector<std::string> Told() {
    absl::MutexLock lock(&mutex_);
    return told_;
  }
  std::vector<GuestAddress> Listed() { return machine_->memory().LostPages(); }

  // The guest cannot go on, and is stopped with words that have the page in them.
  void ExpectStopped(const std::string& why) {
    const StopInfo info = machine_->WaitUntilStopped();
    EXPECT_EQ(info.reason, StopReason::kGuestFault);
    EXPECT_THAT(info.details, HasSubstr("0x1000000"));
    EXPECT_THAT(info.details, HasSubstr(why));
    EXPECT_EQ(Listed(), std::vector<GuestAddress>{kPage});
  }

  std::optional<HugePagePool> pool_;
  MachineHarness harness_;
  GuestConsole console_;
  PageLoser loser_;
  absl::Mutex mutex_;
  std::vector<std::string> told_ ABSL_GUARDED_BY(mutex_);  // of which pages events told
  std::unique_ptr<Machine> machine_;
};

class LostPageOnEachMemory : public LostPageTest, public testing::WithParamInterface<MemoryBacking> {
 protected:
  void SetUp() override {
    LostPageTest::SetUp();
    NeedMemory();
  }
  void NeedMemory() {
    if (GetParam() == MemoryBacking::kHugetlb2M && !IsSkipped()) {
      // One more: what is broken does not come back.
      pool_.emplace(MachineHarness::Config("lost", "").memory_bytes / HostPageBytes(GetParam()) + 1);
      if (!pool_->status().ok()) {
        GTEST_SKIP() << pool_->status();
      }
    }
  }
};

TEST_P(LostPageOnEachMemory, GuestGetsAMachineCheckAndGoesOnAndADiscardHeals) {
  Start("g", GetParam());
  Touch();
  ASSERT_TRUE(console_.Next("went-on", kPatience).has_value()) << "the page is good at first";
  Lose();
  for (int i = 0; i < 2; ++i) {
    Touch();
    const std::optional<GuestLine> check = console_.Next("check", kPatience);
    ASSERT_TRUE(check.has_value());
    EXPECT_EQ(check->Number("mcg"), 7u);
    const uint64_t status = check->Number("status");
    EXPECT_TRUE(status == 0xbc00'0800'0000'0000 || status == 0xbd80'0000'0000'0134) << std::hex << status;
    EXPECT_EQ(check->Number("address"), kPage.value());
    ASSERT_TRUE(console_.Next("went-on", kPatience).has_value());
  }
  EXPECT_EQ(Listed(), std::vector<GuestAddress>{kPage});
  EXPECT_EQ(Told(), std::vector<std::string>{"0x1000000"});
  EXPECT_EQ(machine_->state(), MachineState::kRunning);

  const auto discarded =
      machine_->memory().Find(kPage)->Discard(kPage.value(), HostPageBytes(machine_->config().memory_backing));
  ASSERT_TRUE(discarded.ok()) << discarded.status();
  loser_.Close();
  EXPECT_TRUE(Listed().empty());
  console_.SkipLines();
  Touch();
  ASSERT_TRUE(console_.Next("went-on", kPatience).has_value());
  int checks = 0;
  for (const GuestLine& line : console_.lines()) {
    checks += line.event() == "check" ? 1 : 0;
  }
  EXPECT_EQ(checks, 2) << "no machine check for a page that is good again";
}

// What is lost of hugetlbfs is larger than the guest's page.
TEST_P(LostPageOnEachMemory, GuestIsToldOfThePageThatItTouched) {
  Start("h", GetParam());
  MemoryRegion& region = *machine_->memory().Find(kPage);
  const uint64_t host_page = (kPage + kInside).value() / region.host_page_bytes() * region.host_page_bytes();
  ASSERT_EQ(loser_.Lose(region, host_page).ToString(), "OK");
  Touch();
  const std::optional<GuestLine> check = console_.Next("check", kPatience);
  ASSERT_TRUE(check.has_value());
  EXPECT_EQ(check->Number("address"), (kPage + kInside).value());
  EXPECT_EQ(Listed(), std::vector<GuestAddress>{GuestAddress(host_page)});
}

class HiddenPageTest : public LostPageOnEachMemory {
 protected:
  void SetUp() override { NeedMemory(); }
};

// As where a move has brought it to a kernel before Linux 6.6.
TEST_P(HiddenPageTest, GuestGetsAMachineCheckAndGoesOnAndADiscardHeals) {
  Start("i", GetParam());
  MemoryRegion& region = *machine_->memory().Find(kPage);
  ASSERT_EQ(region.HideLost(kPage.value()).ToString(), "OK");
  Touch();
  const std::optional<GuestLine> check = console_.Next("check", kPatience);
  ASSERT_TRUE(check.has_value());
  EXPECT_EQ(check->Number("address"), kPage.value());
  ASSERT_TRUE(console_.Next("went-on", kPatience).has_value());
  ASSERT_TRUE(region.Discard(kPage.value(), region.host_page_bytes()).ok());
  Touch();
  ASSERT_TRUE(console_.Next("went-on", kPatience).has_value());
}

// The host's own tests leave its huge pages alone.
std::vector<MemoryBacking> EachMemory() {
  std::vector<MemoryBacking> each = {MemoryBacking::kMemfd, MemoryBacking::kAnonymous};
  if (InOuterMachine()) {
    each.push_back(MemoryBacking::kHugetlb2M);
  }
  return each;
}
const auto kEachMemory = testing::ValuesIn(EachMemory());
std::string NameOfMemory(const testing::TestParamInfo<MemoryBacking>& backing) {
  return backing.param == MemoryBacking::kHugetlb2M ? "hugetlb" : std::string(MemoryBackingName(backing.param));
}
INSTANTIATE_TEST_SUITE_P(Backings, LostPageOnEachMemory, kEachMemory, NameOfMemory);
INSTANTIATE_TEST_SUITE_P(Backings, HiddenPageTest, kEachMemory, NameOfMemory);

TEST_F(LostPageTest, PageThatTheKernelTellsOfIsListedBeforeAnybodyTouchesIt) {
  Start("g");
  MemoryRegion& region = *machine_->memory().Find(kPage);
  ASSERT_EQ(loser_.LoseTold(region, kPage.value()).ToString(), "OK");
  TellOfLostPage(region.guest_mapping().data());  // a mistake of the kernel's: it is good
  absl::MutexLock lock(&mutex_);
  const auto told = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !told_.empty(); };
  ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&told), kPatience));
  EXPECT_EQ(told_, std::vector<std::string>{"0x1000000"});
  EXPECT_EQ(Listed(), std::vector<GuestAddress>{kPage});
}

TEST_P(LostPageOnEachMemory, ResetMakesItGood) {
  Start("g", GetParam());
  Lose();
  Touch();
  ASSERT_TRUE(console_.Next("check", kPatience).has_value());
  ASSERT_TRUE(console_.Next("went-on", kPatience).has_value());
  loser_.Close();
  ASSERT_EQ(machine_->Reset().ToString(), "OK");
  EXPECT_TRUE(Listed().empty());
  ASSERT_TRUE(console_.Next("ready", kPatience).has_value());
  console_.SkipLines();
  Touch();
  ASSERT_TRUE(console_.Next("went-on", kPatience).has_value());
  EXPECT_EQ(console_.lines().back().event(), "went-on");
}

TEST_F(LostPageTest, GuestWithoutMachineChecksIsStoppedWithWords) {
  Start("n");
  Lose();
  Touch();
  ExpectStopped("CR4.MCE");
}

TEST_F(LostPageTest, GuestThatTouchesThePageForEverIsStopped) {
  Start("l");
  Lose();
  Touch();
  ExpectStopped("again and again");
}

// KVM without hardware virtualisation emulates ring 0: it answers such a load with an exit, and no signal.
TEST_F(LostPageTest, LoadInRingZeroIsNeverAnsweredWithOtherBytes) {
  Start("0");
  Lose();
  Touch();
  const std::optional<GuestLine> check = console_.Next("check", kPatience);
  if (check.has_value()) {
    EXPECT_EQ(check->Number("address"), kPage.value()) << "hardware KVM";
  } else {
    ExpectStopped("emulating");
  }
}

// By hardware virtualisation, too, KVM has a string instruction done by its emulator.
TEST_F(LostPageTest, EmulatedInstructionGetsNoOtherBytes) {
  Start("o");
  Lose();
  const size_t lines = console_.line_count();
  Touch();
  ExpectStopped("emulating");
  EXPECT_EQ(console_.line_count(), lines);
}

TEST_F(LostPageTest, TwoVcpusThatTouchItAtOnceGetAMachineCheckEach) {
  Start("2", MemoryBacking::kAnonymous, /*cpus=*/2);
  Lose();
  for (uint64_t i = 1; i <= 20; ++i) {
    Touch();
    const std::optional<GuestLine> both = console_.Next("both", kPatience);
    ASSERT_TRUE(both.has_value());
    EXPECT_EQ(both->Number("first"), i);
    EXPECT_EQ(both->Number("second"), i);
  }
  EXPECT_EQ(Listed(), std::vector<GuestAddress>{kPage});
  EXPECT_EQ(machine_->state(), MachineState::kRunning);
}

TEST_F(LostPageTest, ListIsPartOfTheSavedState) {
  Start("g");
  const auto save = [](Machine& machine) {
    auto message = std::make_unique<capnp::MallocMessageBuilder>();
    EXPECT_EQ(machine.Pause().ToString(), "OK");
    EXPECT_EQ(machine.Save(message->initRoot<state::Machine>()).ToString(), "OK");
    return message;
  };
  EXPECT_EQ(save(*machine_)->getRoot<state::Machine>().getVersion(), 1u) << "an older ferrite reads it";
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  Lose();
  Touch();
  ASSERT_TRUE(console_.Next("check", kPatience).has_value());
  const auto saved = save(*machine_);
  auto state = saved->getRoot<state::Machine>();
  EXPECT_EQ(state.getVersion(), 2u);
  ASSERT_EQ(state.getLostPages().size(), 1u);

  GuestConsole console;
  const std::unique_ptr<Machine> other = harness_.Create(machine_->config(), &console);
  ASSERT_EQ(other->LoadState(state.asReader()).ToString(), "OK");
  EXPECT_TRUE(other->memory().LostPages().empty()) << "no memory came with it";

  state.getLostPages().set(0, uint64_t{1} << 50);
  EXPECT_EQ(other->CheckState(state.asReader()).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ferrite
