#include "devices/rng/rng.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include <memory>

#include "tests/fakes/virtio_harness.h"

namespace ferrite {
namespace {

class RngTest : public testing::Test {
 protected:
  RngTest() {
    harness_.Attach(std::make_unique<Rng>());
    harness_.Start(harness_.driver().OfferedFeatures());
  }

  VirtioHarness harness_;
};

TEST_F(RngTest, FillsWritableMemoryWithRandomBytes) {
  GuestAddress first, second;
  harness_.queue(0).Chain().Writable(100, &first).Writable(28, &second).Submit();
  harness_.Kick(0);
  EXPECT_EQ(harness_.queue(0).TakeUsed()->written, 128u);
  EXPECT_NE(harness_.arena().Read(first, 28), std::vector<uint8_t>(28));
  EXPECT_NE(harness_.arena().Read(second, 28), std::vector<uint8_t>(28));
  EXPECT_NE(harness_.arena().Read(first, 28), harness_.arena().Read(second, 28));
  EXPECT_EQ(harness_.interrupt().count(), 1u);
  EXPECT_EQ(harness_.driver().TakeInterruptStatus(), kInterruptUsedBuffer);
}

TEST_F(RngTest, AnswersAtMostItsLimitOfOneRequest) {
  harness_.queue(0).Chain().WritableAt(GuestAddress(0x800000), 0x400000).Submit();
  harness_.Kick(0);
  EXPECT_EQ(harness_.queue(0).TakeUsed()->written, Rng::kMaxRequestBytes);
}

TEST_F(RngTest, AnswersMoreRequestsThanOnePassTakes) {
  for (int i = 0; i < 60; ++i) {
    harness_.queue(0).Chain().WritableAt(GuestAddress(0x800000), 16).Submit();
  }
  harness_.Kick(0);
  EXPECT_EQ(harness_.queue(0).used_index(), 60);
}

TEST_F(RngTest, ReadableMemoryIsRefused) {
  harness_.queue(0).Chain().ReadableAt(GuestAddress(0x800000), 16).Writable(16).Submit();
  harness_.Kick(0);
  EXPECT_TRUE(harness_.driver().needs_reset());
  EXPECT_EQ(harness_.queue(0).used_index(), 0);
}

TEST_F(RngTest, StateOfAnotherDeviceIsRefused) {  // R7
  capnp::MallocMessageBuilder message;
  auto state = message.initRoot<state::Device>();
  harness_.transport().Quiesce();
  harness_.transport().Save(state);
  EXPECT_TRUE(harness_.transport().CheckState(state).ok());
  state.getVirtioMmio().initBlock();
  EXPECT_FALSE(harness_.transport().CheckState(state).ok());
}

class HostileRngTest : public RngTest, public testing::WithParamInterface<HostileChain> {};

TEST_P(HostileRngTest, NeedsAResetAndWorksAfterIt) {
  harness_.Start(virtio::kFeatureVersion1 | (GetParam().indirect ? virtio::kFeatureIndirectDescriptors : 0));
  harness_.interrupt().Take();
  GetParam().submit(harness_.queue(0));
  harness_.Kick(0);
  EXPECT_TRUE(harness_.driver().needs_reset());
  EXPECT_EQ(harness_.interrupt().Take(), 1u);
  EXPECT_EQ(harness_.driver().TakeInterruptStatus(), kInterruptConfigChange);
  harness_.Kick(0);  // dead until reset
  EXPECT_EQ(harness_.queue(0).used_index(), 0);

  harness_.Start(harness_.driver().OfferedFeatures());
  EXPECT_FALSE(harness_.driver().needs_reset());
  harness_.queue(0).Chain().Writable(8).Submit();
  harness_.Kick(0);
  EXPECT_EQ(harness_.queue(0).TakeUsed()->written, 8u);
}

INSTANTIATE_TEST_SUITE_P(All, HostileRngTest, testing::ValuesIn(HostileChains()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace ferrite
