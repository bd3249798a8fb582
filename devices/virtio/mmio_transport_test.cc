#include "devices/virtio/mmio_transport.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/virtio_harness.h"

namespace ferrite::virtio {
namespace {

constexpr uint64_t kFeatureLow = 1;
constexpr uint64_t kFeatureHigh = uint64_t{1} << 40;
constexpr uint64_t kAllFeatures = kFeatureLow | kFeatureHigh | kTransportFeatures;
constexpr std::array<uint16_t, 2> kSizes = {64, 8};

// Copies what it reads to what it may write; or holds chains until Finish(), as a disk does.
class EchoDevice final : public Device {
 public:
  absl::string_view name() const override { return "echo"; }
  uint32_t device_id() const override { return 42; }
  uint64_t device_features() const override { return kFeatureLow | kFeatureHigh; }
  std::span<const uint16_t> queue_sizes() const override { return kSizes; }
  void ReadConfig(uint64_t offset, std::span<uint8_t> out) override {
    ++config_reads;
    for (uint8_t& byte : out) {
      byte = static_cast<uint8_t>(offset++);
    }
  }
  void WriteConfig(uint64_t offset, std::span<const uint8_t> in) override {
    config_writes.push_back({offset, {in.begin(), in.end()}});
  }
  void Activate(uint64_t accepted) override { features = accepted; }
  absl::Status ProcessQueue(uint16_t index) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++passes;
    if (in_pass) {
      in_pass();
    }
    Queue& queue = transport().queue(index);
    for (;;) {
      FERRITE_ASSIGN_OR_RETURN(std::optional<Chain> chain, queue.Pop());
      if (!chain.has_value()) {
        break;
      }
      if (hold) {
        held.push_back({index, *std::move(chain)});
      } else {
        Answer(index, *chain);
      }
    }
    transport().NotifyUsed(index);
    return absl::OkStatus();
  }
  void Drain() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ++drains;
    EXPECT_FALSE(std::exchange(draining, true)) << "by two at once";
    mutex_.Await(absl::Condition(
        +[](EchoDevice* device) { return device->held.empty(); }, this));
    draining = false;
  }
  void Arrived() override { ++arrivals; }
  void ResetQueue(uint16_t index) override { reset_queues.push_back(index); }
  void Reset() override { features = 0; }
  void Save(state::VirtioMmio::Builder out) const override { out.setRng(); }
  absl::Status CheckState(state::VirtioMmio::Reader in) const override {
    return in.isRng() ? absl::OkStatus() : absl::InvalidArgumentError("not an echo device");
  }
  void LoadState(state::VirtioMmio::Reader) override { ++loads; }

  // Any thread.
  void Finish() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    for (const auto& [index, chain] : std::exchange(held, {})) {
      Answer(index, chain);
      transport().NotifyUsed(index);
    }
  }
  void ChangeConfig() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    transport().NotifyConfigChange();
  }

  bool hold = false;
  std::function<void()> in_pass;
  int config_reads = 0;
  int passes = 0;
  int arrivals = 0;
  int drains = 0;
  bool draining = false;
  int loads = 0;
  uint64_t features = 0;
  std::vector<std::pair<uint16_t, Chain>> held;
  std::vector<uint16_t> reset_queues;
  std::vector<std::pair<uint64_t, std::vector<uint8_t>>> config_writes;

 private:
  void Answer(uint16_t index, const Chain& chain) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<uint8_t> bytes(std::min(chain.readable_bytes(), chain.writable_bytes()));
    FERRITE_CHECK(chain.Read(0, bytes).ok() && chain.Write(0, bytes).ok());
    transport().queue(index).Push(chain.head(), bytes.size());
  }
};

class MmioTransportTest : public testing::Test {
 protected:
  MmioTransportTest() { Attach(harness_); }

  EchoDevice* Attach(VirtioHarness& harness) {
    auto device = std::make_unique<EchoDevice>();
    device_ = device.get();
    harness.Attach(std::move(device));
    return device_;
  }
  const MmioDriver& driver() { return harness_.driver(); }
  void SubmitEcho(uint16_t queue, uint32_t bytes = 4) {
    harness_.queue(queue).Chain().Readable(std::vector<uint8_t>(bytes, 7)).Writable(bytes).Submit();
  }

  EchoDevice* device_ = nullptr;
  VirtioHarness harness_;
};

TEST_F(MmioTransportTest, SaysWhatItIs) {
  EXPECT_EQ(driver().Read(0x000), 0x74726976u);
  EXPECT_EQ(driver().Read(0x004), 2u);
  EXPECT_EQ(driver().Read(0x008), 42u);
  EXPECT_EQ(driver().OfferedFeatures(), kAllFeatures);
  driver().Write(kMmioQueueSelect, 1);
  EXPECT_EQ(driver().Read(kMmioQueueSizeMax), 8u);
  driver().Write(kMmioQueueSelect, 2);
  EXPECT_EQ(driver().Read(kMmioQueueSizeMax), 0u);
  EXPECT_EQ(harness_.transport().name(), "echo");
}

TEST_F(MmioTransportTest, RegistersThatAreNotThereReadAsAllOnesAndOddAccessesAreDropped) {
  EXPECT_EQ(driver().Read(0x02c), 0xffff'ffffu);
  EXPECT_EQ(driver().Read(0x0b0), 0xffff'ffffu);  // §4.2.2: no shared memory has length -1
  for (const size_t bytes : {1, 2, 8}) {
    std::vector<uint8_t> data(bytes, 0);
    harness_.transport().Read(0x000, data);
    EXPECT_EQ(data, std::vector<uint8_t>(bytes, 0xff));
    harness_.transport().Write(kMmioStatus, std::vector<uint8_t>(bytes, 1));
  }
  std::array<uint8_t, 4> word = {1, 0, 0, 0};
  harness_.transport().Write(kMmioStatus + 1, word);
  EXPECT_EQ(driver().status(), 0u);
  harness_.transport().Read(kMmioStatus + 2, word);
  EXPECT_EQ(word, (std::array<uint8_t, 4>{0xff, 0xff, 0xff, 0xff}));
}

TEST_F(MmioTransportTest, ConfigurationSpaceTakesEveryWidth) {
  EXPECT_EQ(driver().ReadConfig<uint8_t>(3), 3);
  EXPECT_EQ(driver().ReadConfig<uint16_t>(4), 0x0504);
  EXPECT_EQ(driver().ReadConfig<uint64_t>(0), 0x0706050403020100u);
  driver().WriteConfig<uint16_t>(6, 0x1234);
  ASSERT_EQ(device_->config_writes.size(), 1u);
  EXPECT_EQ(device_->config_writes[0].first, 6u);
  EXPECT_EQ(device_->config_writes[0].second, (std::vector<uint8_t>{0x34, 0x12}));
}

TEST_F(MmioTransportTest, FeaturesAreRefusedWithoutVersion1AndWhenNotOffered) {
  EXPECT_FALSE(driver().Negotiate(kFeatureLow));
  driver().Reset();
  EXPECT_FALSE(driver().Negotiate(kAllFeatures | 2));
  driver().Reset();
  EXPECT_TRUE(driver().Negotiate(kFeatureHigh | kFeatureVersion1));
  // Fixed from here on.
  driver().Write(0x024, 1);
  driver().Write(0x020, 0);
  driver().SetDriverOk();
  EXPECT_EQ(device_->features, kFeatureHigh | kFeatureVersion1);
}

TEST_F(MmioTransportTest, StatusBitsComeInOrderAndGoOnlyByReset) {
  driver().Write(kMmioStatus, kStatusDriver);
  EXPECT_EQ(driver().status(), 0u);
  driver().Write(kMmioStatus, kStatusAcknowledge | kStatusDriverOk);
  EXPECT_EQ(driver().status(), kStatusAcknowledge);
  driver().Write(kMmioStatus, kStatusDriver);  // clears one
  EXPECT_EQ(driver().status(), kStatusAcknowledge);
  driver().Write(kMmioStatus, kStatusAcknowledge | kStatusNeedsReset);  // not the driver's
  EXPECT_EQ(driver().status(), kStatusAcknowledge);
  ASSERT_TRUE(driver().Negotiate(kFeatureVersion1));
  driver().SetDriverOk();
  EXPECT_EQ(driver().status(), 15u);
  driver().Reset();
  EXPECT_EQ(driver().status(), 0u);
}

TEST_F(MmioTransportTest, QueueIsNotReadyBeforeTheFeatures) {
  QueueDriver queue(harness_.arena(), 8);
  EXPECT_FALSE(driver().SetUpQueue(0, queue.addresses()));
  EXPECT_FALSE(driver().needs_reset());
}

TEST_F(MmioTransportTest, QueueThatCannotBeNeedsAReset) {
  QueueDriver queue(harness_.arena(), 8);
  for (const uint16_t size : {0, 3, 128, 65535}) {
    driver().Reset();
    ASSERT_TRUE(driver().Negotiate(kFeatureVersion1));
    virtio::QueueAddresses addresses = queue.addresses();
    addresses.size = size;
    EXPECT_FALSE(driver().SetUpQueue(0, addresses)) << size;
    EXPECT_TRUE(driver().needs_reset()) << size;
    EXPECT_EQ(harness_.interrupt().count(), 0u) << "no notification before DRIVER_OK (§2.1.2)";
  }
  driver().SetDriverOk();
  EXPECT_EQ(driver().TakeInterruptStatus(), kInterruptConfigChange);
  driver().Reset();
  ASSERT_TRUE(driver().Negotiate(kFeatureVersion1));
  EXPECT_TRUE(driver().SetUpQueue(0, queue.addresses()));
  EXPECT_FALSE(driver().SetUpQueue(2, queue.addresses()));
}

TEST_F(MmioTransportTest, ChainIsEchoedAndInterrupts) {
  harness_.Start(kAllFeatures);
  SubmitEcho(0, 32);
  harness_.Kick(0);
  EXPECT_EQ(harness_.queue(0).TakeUsed()->written, 32u);
  EXPECT_EQ(harness_.interrupt().count(), 1u);
  EXPECT_EQ(driver().TakeInterruptStatus(), kInterruptUsedBuffer);
  EXPECT_EQ(driver().Read(kMmioInterruptStatus), 0u);
  SubmitEcho(1);
  harness_.Kick(1);
  EXPECT_TRUE(harness_.queue(1).HasUsed());
  driver().Notify(2);  // no such queue
  driver().Notify(0xffff'ffff);
  harness_.loop().RunReady();
}

TEST_F(MmioTransportTest, ChainsFromBeforeDriverOkAreNotLost) {
  ASSERT_TRUE(driver().Negotiate(kFeatureVersion1));
  QueueDriver queue(harness_.arena(), 8);
  ASSERT_TRUE(driver().SetUpQueue(0, queue.addresses()));
  queue.Chain().Writable(4).Submit();
  harness_.Kick(0);
  EXPECT_EQ(device_->passes, 0);
  driver().SetDriverOk();
  harness_.loop().RunReady();
  EXPECT_TRUE(queue.HasUsed());
}

TEST_F(MmioTransportTest, ConfigChangeRaisesTheGenerationAndInterruptsARunningDriver) {
  const uint32_t before = driver().Read(kMmioConfigGeneration);
  device_->ChangeConfig();
  EXPECT_EQ(driver().Read(kMmioConfigGeneration), before + 1);
  EXPECT_EQ(harness_.interrupt().count(), 0u);
  harness_.Start(kAllFeatures);
  device_->ChangeConfig();
  EXPECT_EQ(driver().Read(kMmioConfigGeneration), before + 2);
  EXPECT_EQ(harness_.interrupt().count(), 1u);
  EXPECT_EQ(driver().TakeInterruptStatus(), kInterruptConfigChange);
}

TEST_F(MmioTransportTest, StoppedQueueLeavesTheOthersAlone) {
  harness_.Start(kAllFeatures);
  driver().Write(kMmioQueueSelect, 0);
  driver().Write(kMmioQueueReady, 0);
  EXPECT_EQ(driver().Read(kMmioQueueReady), 0u);
  EXPECT_EQ(device_->reset_queues, std::vector<uint16_t>{0});
  SubmitEcho(0);
  harness_.Kick(0);
  EXPECT_FALSE(harness_.queue(0).HasUsed());
  SubmitEcho(1);
  harness_.Kick(1);
  EXPECT_TRUE(harness_.queue(1).HasUsed());
}

TEST_F(MmioTransportTest, NothingHappensWhileQuiescedAndNothingIsLost) {
  harness_.Start(kAllFeatures);
  SubmitEcho(0);
  driver().Notify(0);
  harness_.transport().Quiesce();
  EXPECT_EQ(device_->drains, 2);  // the harness resets first
  harness_.loop().RunReady();
  device_->ChangeConfig();
  EXPECT_FALSE(harness_.queue(0).HasUsed());
  EXPECT_EQ(harness_.interrupt().count(), 0u);
  harness_.transport().Resume();
  EXPECT_EQ(harness_.interrupt().Take(), 1u) << "the pending one again";
  harness_.loop().RunReady();
  EXPECT_TRUE(harness_.queue(0).HasUsed());
  EXPECT_EQ(driver().TakeInterruptStatus(), kInterruptConfigChange | kInterruptUsedBuffer);
}

TEST_F(MmioTransportTest, ArrivalIsTheDevicesToAnnounce) {
  ::ferrite::Device& device = harness_.transport();
  device.Arrived();
  EXPECT_EQ(device_->arrivals, 1);
}

TEST_F(MmioTransportTest, ResetIsPowerOn) {
  harness_.Start(kAllFeatures);
  device_->ChangeConfig();
  harness_.transport().Quiesce();
  harness_.transport().Reset();
  EXPECT_EQ(driver().status(), 0u);
  EXPECT_EQ(driver().Read(kMmioInterruptStatus), 0u);
  driver().Write(kMmioQueueSelect, 0);
  EXPECT_EQ(driver().Read(kMmioQueueReady), 0u);
  harness_.transport().Resume();
  EXPECT_EQ(harness_.interrupt().Take(), 1u);  // of the config change; none of Resume()
}

// With a real loop: work in flight ends on another thread while this one plays the vCPU.
TEST(MmioTransportThreadsTest, DriverResetAndQuiesceWaitForWorkInFlight) {
  auto loop = EventLoop::Create("test-loop");
  ASSERT_TRUE(loop.ok());
  VirtioHarness harness(uint64_t{16} << 20, loop->get());
  auto owned = std::make_unique<EchoDevice>();
  EchoDevice* device = owned.get();
  harness.Attach(std::move(owned));
  for (const bool reset : {true, false}) {
    {
      absl::MutexLock lock(&device->mutex());
      device->hold = true;
    }
    harness.Start(kAllFeatures);
    harness.queue(0).Chain().Writable(4).Submit();
    harness.Kick(0);
    int drains = 0;
    {
      absl::MutexLock lock(&device->mutex());
      device->mutex().Await(absl::Condition(
          +[](EchoDevice* device) { return !device->held.empty(); }, device));
      device->hold = false;
      drains = device->drains;
    }
    std::thread finisher([&] {
      {
        absl::MutexLock lock(&device->mutex());
        const auto draining = [&] { return device->drains > drains; };
        device->mutex().Await(absl::Condition(&draining));
      }
      device->Finish();
    });
    if (reset) {
      harness.driver().Reset();
      EXPECT_EQ(harness.driver().status(), 0u);
    } else {
      harness.transport().Quiesce();
    }
    EXPECT_EQ(harness.queue(0).used_index(), 1) << "it was answered, not dropped";
    finisher.join();
  }
  harness.transport().Resume();
}

// A device alone may be quiesced, while its guest runs on and resets it.
TEST(MmioTransportThreadsTest, AResetByTheDriverAndAQuiesceTakeTurns) {
  auto loop = EventLoop::Create("test-loop");
  ASSERT_TRUE(loop.ok());
  VirtioHarness harness(uint64_t{16} << 20, loop->get());
  auto owned = std::make_unique<EchoDevice>();
  EchoDevice* device = owned.get();
  harness.Attach(std::move(owned));
  for (int round = 0; round < 50; ++round) {
    {
      absl::MutexLock lock(&device->mutex());
      device->hold = true;
    }
    harness.Start(kAllFeatures);
    harness.queue(0).Chain().Writable(4).Submit();
    harness.Kick(0);
    int drains = 0;
    {
      absl::MutexLock lock(&device->mutex());
      device->mutex().Await(absl::Condition(
          +[](EchoDevice* device) { return !device->held.empty(); }, device));
      drains = device->drains;
    }
    std::thread finisher([&] {
      {
        absl::MutexLock lock(&device->mutex());
        const auto draining = [&] { return device->drains > drains; };
        device->mutex().Await(absl::Condition(&draining));
      }
      std::thread quiesce([&] {
        harness.transport().Quiesce();
        harness.transport().Resume();
      });
      // Time for it to come in between.
      for (int i = 0; i < 20; ++i) {
        std::this_thread::yield();
        absl::MutexLock lock(&device->mutex());
      }
      device->Finish();
      quiesce.join();
    });
    harness.driver().Reset();
    EXPECT_EQ(harness.driver().status(), 0u);
    finisher.join();
  }
}

TEST(MmioTransportThreadsTest, NoChainIsLostWhileTheLoopAndTheDriverRace) {
  auto loop = EventLoop::Create("test-loop");
  ASSERT_TRUE(loop.ok());
  for (const uint64_t features : {kFeatureVersion1, kFeatureVersion1 | kFeatureEventIndex}) {
    VirtioHarness harness(uint64_t{64} << 20, loop->get());
    harness.Attach(std::make_unique<EchoDevice>());
    harness.Start(features, 16);
    QueueDriver& queue = harness.queue(0);
    queue.EnableInterrupts();
    uint64_t interrupts_seen = 0;
    int sent = 0, received = 0;
    const int kRequests = 3000;
    while (received < kRequests) {
      while (sent < kRequests && sent - received < 16) {
        queue.Chain().WritableAt(GuestAddress(0x2800000), 8).Submit();
        ++sent;
        if (queue.NeedsKick()) {
          harness.driver().Notify(0);
        }
        if (sent % 1000 == 500) {
          harness.transport().Quiesce();
          harness.transport().Resume();
        }
      }
      // As an interrupt handler does: collect, ask for the next interrupt, look again, then sleep.
      for (;;) {
        while (queue.TakeUsed().has_value()) {
          ++received;
        }
        queue.EnableInterrupts();
        if (!queue.HasUsed()) {
          break;
        }
      }
      if (received < sent && !queue.HasUsed()) {
        ASSERT_TRUE(harness.interrupt().WaitFor(interrupts_seen + 1)) << "an interrupt was lost";
        interrupts_seen = harness.interrupt().count();
        harness.driver().TakeInterruptStatus();
      }
    }
  }
}

// A guest that keeps the loop busy with its queue: its vCPUs, and a pause, come in between.
TEST(MmioTransportTurnTest, WhoWaitsForTheDeviceHasItBeforeTheNextPass) {
  constexpr absl::Duration kPatience = absl::Seconds(20);
  auto loop = EventLoop::Create("loop");
  ASSERT_TRUE(loop.ok());
  VirtioHarness harness(uint64_t{16} << 20, loop->get());
  auto owned = std::make_unique<EchoDevice>();
  EchoDevice& device = *owned;
  harness.Attach(std::move(owned));
  harness.Start(kAllFeatures);
  for (int round = 0; round < 30; ++round) {
    TimedNotification in_first;
    TimedNotification first_may_end;
    TimedNotification in_second;
    int passes = 0;
    int reads_before = 0;
    int reads_in_between = 0;
    {
      absl::MutexLock lock(&device.mutex());
      reads_before = device.config_reads;
      device.in_pass = [&] {
        if (++passes == 1) {
          in_first.Notify();
          EXPECT_TRUE(first_may_end.WaitFor(kPatience));
        } else if (passes == 2) {
          reads_in_between = device.config_reads - reads_before;
          in_second.Notify();
        }
      };
    }
    harness.driver().Notify(0);
    ASSERT_TRUE(in_first.WaitFor(kPatience));
    harness.driver().Notify(0);
    Thread vcpu = StartOrDie("vcpu", [&] { (void)harness.driver().ReadConfig<uint8_t>(0); });
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (device.waiting() == 0 && MonotonicTime::Now() < deadline) {
      std::this_thread::yield();
    }
    first_may_end.Notify();
    ASSERT_TRUE(in_second.WaitFor(kPatience));
    vcpu.Join();
    EXPECT_EQ(reads_in_between, 1) << "round " << round;
    absl::MutexLock lock(&device.mutex());
    device.in_pass = nullptr;
  }
}

class MmioStateTest : public MmioTransportTest {
 protected:
  state::Device::Builder Save() {
    auto state = message_->initRoot<state::Device>();
    harness_.transport().Quiesce();
    harness_.transport().Save(state);
    return state;
  }

  // By pointer: its destructor may throw.
  std::unique_ptr<capnp::MallocMessageBuilder> message_ = std::make_unique<capnp::MallocMessageBuilder>();
};

TEST_F(MmioStateTest, AnotherDeviceGoesOnFromASavedState) {
  harness_.Start(kAllFeatures);
  for (int i = 0; i < 3; ++i) {
    SubmitEcho(0);
    harness_.Kick(0);
    ASSERT_TRUE(harness_.queue(0).TakeUsed().has_value());
  }
  SubmitEcho(0);  // still to do at the destination, its doorbell lost
  auto state = Save();
  EXPECT_EQ(state.getName(), "echo");

  FakeInterruptLine interrupt;
  auto owned = std::make_unique<EchoDevice>();
  EchoDevice* other_device = owned.get();
  auto other = MmioTransport::Create(std::move(owned), harness_.memory(), interrupt, harness_.loop());
  ASSERT_TRUE(other.ok());
  ASSERT_TRUE((*other)->CheckState(state).ok()) << (*other)->CheckState(state);
  (*other)->LoadState(state);
  EXPECT_EQ(other_device->features, kAllFeatures);
  EXPECT_EQ(other_device->loads, 1);
  EXPECT_EQ(MmioDriver(**other).status(), 15u);
  (*other)->Resume();
  EXPECT_EQ(interrupt.count(), 1u) << "the source's was pending";
  harness_.loop().RunReady();
  EXPECT_TRUE(harness_.queue(0).TakeUsed().has_value());
  (*other)->Quiesce();
  // What was loaded is saved the same.
  capnp::MallocMessageBuilder again;
  auto second = again.initRoot<state::Device>();
  (*other)->LoadState(state);
  (*other)->Save(second);
  EXPECT_TRUE(second.asReader().toString().flatten() == state.asReader().toString().flatten());
}

TEST_F(MmioStateTest, EveryFieldIsChecked) {  // R7
  harness_.Start(kAllFeatures);
  auto state = Save();
  ASSERT_TRUE(harness_.transport().CheckState(state).ok());
  using Change = std::function<void(state::VirtioMmio::Builder)>;
  const std::vector<std::pair<std::string, Change>> changes = {
      {"device id", [](auto mmio) { mmio.setDeviceId(2); }},
      {"status bit", [](auto mmio) { mmio.setStatus(0x10f); }},
      {"status order", [](auto mmio) { mmio.setStatus(4); }},
      {"queue before features", [](auto mmio) { mmio.setStatus(3); }},
      {"feature not offered", [](auto mmio) { mmio.setDriverFeatures(kAllFeatures | 2); }},
      {"no version 1", [](auto mmio) { mmio.setDriverFeatures(0); }},
      {"interrupt status", [](auto mmio) { mmio.setInterruptStatus(4); }},
      {"no queues", [](auto mmio) { mmio.initQueues(0); }},
      {"too many queues", [](auto mmio) { mmio.initQueues(3); }},
      {"queue size 0", [](auto mmio) { mmio.getQueues()[0].setSize(0); }},
      {"queue size odd", [](auto mmio) { mmio.getQueues()[1].setSize(3); }},
      {"queue too large", [](auto mmio) { mmio.getQueues()[1].setSize(16); }},
      {"descriptors", [](auto mmio) { mmio.getQueues()[0].setDescriptors(uint64_t{1} << 40); }},
      {"available", [](auto mmio) { mmio.getQueues()[0].setAvailable(UINT64_MAX - 1); }},
      {"used unaligned", [](auto mmio) { mmio.getQueues()[0].setUsed(2); }},
      {"indexes", [](auto mmio) { mmio.getQueues()[0].setNextAvailable(100); }},
      {"device", [](auto mmio) { mmio.initBlock(); }},
  };
  for (const auto& [what, change] : changes) {
    capnp::MallocMessageBuilder message;
    message.setRoot(state.asReader());
    auto changed = message.getRoot<state::Device>();
    change(changed.getVirtioMmio());
    const absl::Status status = harness_.transport().CheckState(changed);
    EXPECT_FALSE(status.ok()) << what;
    EXPECT_EQ(status.message().substr(0, 6), "echo: ") << status;
  }
  state.setVersion(2);
  EXPECT_FALSE(harness_.transport().CheckState(state).ok());
  state.setVersion(0);
  EXPECT_FALSE(harness_.transport().CheckState(state).ok());
  state.setVersion(1);
  state.setNone();
  EXPECT_FALSE(harness_.transport().CheckState(state).ok());
  EXPECT_EQ(driver().status(), 15u) << "checking changed nothing";
}

}  // namespace
}  // namespace ferrite::virtio
