#include "devices/virtio/queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "memory/guest_memory.h"
#include "tests/fakes/queue_driver.h"

namespace ferrite::virtio {
namespace {

constexpr uint64_t kMemoryBytes = uint64_t{4} << 20;
constexpr uint16_t kSize = 8;

class QueueTest : public testing::Test {
 protected:
  void Enable(bool event_index = false, bool indirect = true, uint16_t size = kSize) {
    driver_.emplace(arena_, size, event_index);
    ASSERT_TRUE(queue_.Enable(driver_->addresses(), event_index, indirect).ok());
  }
  // The chain that has to be there.
  Chain PopOne() {
    auto chain = queue_.Pop();
    EXPECT_TRUE(chain.ok()) << chain.status();
    EXPECT_TRUE(chain->has_value());
    return **std::move(chain);
  }
  bool IsEmpty() {
    auto chain = queue_.Pop();
    return chain.ok() && !chain->has_value();
  }

  std::unique_ptr<GuestMemory> memory_ = *GuestMemory::Create(kMemoryBytes, MemoryBacking::kAnonymous);
  GuestArena arena_{*memory_, GuestAddress(0x10000), GuestAddress(kMemoryBytes)};
  Queue queue_{*memory_, 256};
  std::optional<QueueDriver> driver_;
};

std::vector<uint8_t> Counting(size_t bytes) {
  std::vector<uint8_t> content(bytes);
  std::iota(content.begin(), content.end(), uint8_t{1});
  return content;
}

TEST_F(QueueTest, NothingComesFromAQueueThatIsNotEnabled) {
  EXPECT_TRUE(IsEmpty());
  EXPECT_FALSE(queue_.TakeInterruptNeeded());
  EXPECT_FALSE(queue_.EnableNotifications());
}

TEST_F(QueueTest, ChainIsReadAndWrittenWhateverItsFraming) {
  Enable();
  const std::vector<uint8_t> content = Counting(10);
  GuestAddress first, second;
  const uint16_t head = driver_->Chain()
                            .Readable(std::span(content).first(3))
                            .Readable(std::span(content).subspan(3))
                            .Writable(5, &first)
                            .Writable(20, &second)
                            .Submit();
  const Chain chain = PopOne();
  EXPECT_EQ(chain.head(), head);
  EXPECT_EQ(chain.readable_bytes(), 10u);
  EXPECT_EQ(chain.writable_bytes(), 25u);
  EXPECT_EQ(chain.readable().size(), 2u);

  std::vector<uint8_t> out(7);
  ASSERT_TRUE(chain.Read(2, out).ok());
  EXPECT_EQ(out, std::vector<uint8_t>(content.begin() + 2, content.begin() + 9));
  EXPECT_FALSE(chain.Read(4, out).ok());
  EXPECT_FALSE(chain.Read(UINT64_MAX, out).ok());

  ASSERT_TRUE(chain.Write(3, content).ok());
  EXPECT_EQ(arena_.Read(first + 3, 2), std::vector<uint8_t>({1, 2}));
  EXPECT_EQ(arena_.Read(second, 9), std::vector<uint8_t>({3, 4, 5, 6, 7, 8, 9, 10, 0}));
  EXPECT_FALSE(chain.Write(16, content).ok());

  queue_.Push(head, 13);
  EXPECT_EQ(driver_->TakeUsed(), (QueueDriver::Used{head, 13}));
  EXPECT_TRUE(IsEmpty());
}

TEST_F(QueueTest, WritesOfTheDeviceCountAsDirtyAndReadsDoNot) {
  Enable();
  driver_->Chain()
      .ReadableAt(GuestAddress(0x200000), 4096)
      .WritableAt(GuestAddress(0x300000 - 2), 4)
      .WritableAt(GuestAddress(0x310000), 4096)
      .Submit();
  PageBitmap& dirty = memory_->regions()[0]->own_writes();
  dirty.ClearAll();
  const Chain chain = PopOne();
  EXPECT_EQ(dirty.Count(), 0u);
  ASSERT_TRUE(chain.Write(0, Counting(4)).ok());
  EXPECT_TRUE(dirty.Test(0x2ff));
  EXPECT_TRUE(dirty.Test(0x300));
  EXPECT_EQ(dirty.Count(), 2u);
  queue_.Push(chain.head(), 4);
  EXPECT_TRUE(dirty.Test(driver_->addresses().used.value() / kPageBytes));
  chain.MarkWritten(4, 1);
  EXPECT_TRUE(dirty.Test(0x310));
}

TEST_F(QueueTest, ManyRoundsWrapTheRings) {
  Enable();
  for (int i = 0; i < 70000; ++i) {  // past 2^16, too
    const uint16_t head = driver_->Chain().ReadableAt(GuestAddress(0x1000), 16).Submit();
    ASSERT_EQ(PopOne().head(), head);
    queue_.Push(head, 0);
    ASSERT_EQ(driver_->TakeUsed()->head, head);
  }
}

TEST_F(QueueTest, AChainThatIsPutBackComesAgain) {
  Enable(/*event_index=*/true);
  const uint16_t first = driver_->Chain().Writable(8).Submit();
  const uint16_t second = driver_->Chain().Writable(8).Submit();
  const Chain kept = PopOne();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(PopOne().head(), second);
    EXPECT_TRUE(IsEmpty());
    queue_.PutBack();
    EXPECT_EQ(queue_.in_flight(), 1);
    EXPECT_TRUE(queue_.EnableNotifications()) << "look again";
  }
  queue_.Push(kept.head(), 0);
  EXPECT_EQ(driver_->TakeUsed()->head, first);
  queue_.Push(PopOne().head(), 8);
  EXPECT_EQ(driver_->TakeUsed(), (QueueDriver::Used{second, 8}));
  EXPECT_FALSE(queue_.EnableNotifications());
}

TEST_F(QueueTest, IndirectChainAfterDirectSegments) {
  Enable();
  const std::vector<uint8_t> content = Counting(4);
  driver_->Chain().Readable(content).Writable(6).SubmitIndirect();
  Chain chain = PopOne();
  EXPECT_EQ(chain.readable_bytes(), 4u);
  EXPECT_EQ(chain.writable_bytes(), 6u);
  queue_.Push(chain.head(), 0);
  ASSERT_TRUE(driver_->TakeUsed().has_value());

  // §2.7.5.3.2: a direct segment first, then the table, whose WRITE flag means nothing.
  const Descriptor table[] = {{0x2000, 8, kDescriptorWrite, 0}};
  const GuestAddress where = arena_.Place({reinterpret_cast<const uint8_t*>(table), sizeof(table)});
  driver_->WriteDescriptor(0, {0x1000, 16, kDescriptorNext, 1});
  driver_->WriteDescriptor(1, {where.value(), 16, kDescriptorIndirect | kDescriptorWrite, 0});
  driver_->MakeAvailable(0);
  chain = PopOne();
  EXPECT_EQ(chain.readable_bytes(), 16u);
  EXPECT_EQ(chain.writable_bytes(), 8u);
}

TEST_F(QueueTest, ChainHasAtMostAsManySegmentsAsTheQueue) {
  Enable();
  ChainBuilder fits = driver_->Chain();
  ChainBuilder too_long = driver_->Chain();
  for (int i = 0; i < kSize; ++i) {
    fits.ReadableAt(GuestAddress(0x1000), 1);
    too_long.ReadableAt(GuestAddress(0x1000), 1);
  }
  too_long.ReadableAt(GuestAddress(0x1000), 1);
  fits.SubmitIndirect();
  EXPECT_EQ(PopOne().readable_bytes(), uint64_t{kSize});
  too_long.SubmitIndirect();
  EXPECT_FALSE(queue_.Pop().ok());
}

TEST_F(QueueTest, ChainOfMoreThanFourGibIsRefused) {
  auto memory = GuestMemory::Create(uint64_t{2} << 30, MemoryBacking::kMemfd);
  ASSERT_TRUE(memory.ok());
  GuestArena arena(**memory, GuestAddress(0x10000), GuestAddress(0x100000));
  QueueDriver driver(arena, 16);
  Queue queue(**memory, 16);
  ASSERT_TRUE(queue.Enable(driver.addresses(), false, false).ok());
  ChainBuilder chain = driver.Chain();
  for (int i = 0; i < 4; ++i) {
    chain.WritableAt(GuestAddress(0), 1 << 30);
  }
  const uint16_t head = chain.Submit();
  auto popped = queue.Pop();
  ASSERT_TRUE(popped.ok()) << popped.status();
  EXPECT_EQ((*popped)->writable_bytes(), kMaxChainBytes);
  queue.Push(head, kMaxChainBytes);
  EXPECT_EQ(driver.TakeUsed()->written, UINT32_MAX);
  chain.WritableAt(GuestAddress(0), 1).Submit();
  EXPECT_FALSE(queue.Pop().ok());
}

TEST_F(QueueTest, AHeadThatIsGivenAgainAndAgainIsRefusedOnceTheQueueIsFull) {
  Enable();
  driver_->WriteDescriptor(0, {0x1000, 16, 0, 0});
  for (int i = 0; i < kSize; ++i) {
    driver_->MakeAvailable(0);
    EXPECT_EQ(PopOne().head(), 0);
  }
  driver_->MakeAvailable(0);
  EXPECT_FALSE(queue_.Pop().ok());
  EXPECT_EQ(queue_.in_flight(), kSize);
}

TEST_F(QueueTest, RingsThatOverlapDoNoHarm) {
  QueueAddresses addresses;
  addresses.size = 16;
  addresses.descriptors = addresses.available = addresses.used = GuestAddress(0x1000);
  ASSERT_TRUE(queue_.Enable(addresses, true, true).ok());
  ASSERT_TRUE(memory_->Fill(GuestAddress(0x1000), 0x5a, 0x1000).ok());
  for (int i = 0; i < 100; ++i) {
    auto chain = queue_.Pop();
    if (chain.ok() && chain->has_value()) {
      queue_.Push((*chain)->head(), 0);
    }
    queue_.EnableNotifications();
  }
}

TEST_F(QueueTest, AddressesAreChecked) {
  driver_.emplace(arena_, 16);
  const QueueAddresses good = driver_->addresses();
  EXPECT_TRUE(queue_.Check(good).ok());
  const auto refuses = [&](auto change) {
    QueueAddresses addresses = good;
    change(addresses);
    return !queue_.Check(addresses).ok() && !queue_.Enable(addresses, false, false).ok() && !queue_.enabled();
  };
  for (const uint16_t size : {0, 3, 100, 257, 512, 32768, 65535}) {
    EXPECT_TRUE(refuses([&](auto& a) { a.size = size; })) << size;
  }
  EXPECT_TRUE(refuses([](auto& a) { a.descriptors = a.descriptors + 8; }));
  EXPECT_TRUE(refuses([](auto& a) { a.available = a.available + 1; }));
  EXPECT_TRUE(refuses([](auto& a) { a.used = a.used + 2; }));
  for (const uint64_t address : {kMemoryBytes, kMemoryBytes - 16, uint64_t{0xffff'ffff'ffff'fff0}}) {
    EXPECT_TRUE(refuses([&](auto& a) { a.descriptors = GuestAddress(address); })) << address;
    EXPECT_TRUE(refuses([&](auto& a) { a.available = GuestAddress(address); })) << address;
    EXPECT_TRUE(refuses([&](auto& a) { a.used = GuestAddress(address); })) << address;
  }
}

TEST_F(QueueTest, InterruptsFollowTheFlagWithoutTheEventIndex) {
  Enable();
  const auto round = [this] {
    const uint16_t head = driver_->Chain().ReadableAt(GuestAddress(0x1000), 16).Submit();
    PopOne();
    queue_.Push(head, 0);
    driver_->TakeUsed();
    return queue_.TakeInterruptNeeded();
  };
  EXPECT_TRUE(round());
  driver_->DisableInterrupts();
  EXPECT_FALSE(round());
  driver_->EnableInterrupts();
  EXPECT_TRUE(round());
}

TEST_F(QueueTest, InterruptsFollowTheEventIndex) {
  Enable(/*event_index=*/true);
  const auto round = [this] {
    const uint16_t head = driver_->Chain().ReadableAt(GuestAddress(0x1000), 16).Submit();
    PopOne();
    queue_.Push(head, 0);
    driver_->TakeUsed();
    return queue_.TakeInterruptNeeded();
  };
  EXPECT_TRUE(round());  // the first always
  driver_->SetUsedEvent(2);
  EXPECT_FALSE(round());  // index 2
  EXPECT_TRUE(round());   // passes 2
  EXPECT_FALSE(round());
  driver_->SetUsedEvent(5);
  EXPECT_FALSE(round());
  EXPECT_TRUE(round());
}

TEST_F(QueueTest, DoorbellsAreSuppressedWhileTheDeviceWorks) {
  for (const bool event_index : {false, true}) {
    Enable(event_index);
    EXPECT_FALSE(queue_.EnableNotifications());
    driver_->Chain().ReadableAt(GuestAddress(0x1000), 16).Submit();
    EXPECT_TRUE(driver_->NeedsKick());
    queue_.DisableNotifications();
    PopOne();
    driver_->Chain().ReadableAt(GuestAddress(0x1000), 16).Submit();
    EXPECT_FALSE(driver_->NeedsKick());
    EXPECT_TRUE(queue_.EnableNotifications()) << "a chain that came meanwhile would be lost";
    PopOne();
    EXPECT_FALSE(queue_.EnableNotifications());
    driver_->Chain().ReadableAt(GuestAddress(0x1000), 16).Submit();
    EXPECT_TRUE(driver_->NeedsKick());
  }
}

TEST_F(QueueTest, ProgressIsSavedAndLoaded) {
  Enable(/*event_index=*/true);
  for (int i = 0; i < 3; ++i) {
    driver_->Chain().ReadableAt(GuestAddress(0x1000), 16).Submit();
  }
  const uint16_t head = PopOne().head();
  queue_.Push(head, 0);
  queue_.TakeInterruptNeeded();
  PopOne();
  const Queue::Progress progress = queue_.progress();
  Queue other(*memory_, 256);
  ASSERT_TRUE(other.Enable(driver_->addresses(), true, true).ok());
  ASSERT_TRUE(Queue::CheckProgress(kSize, progress).ok());
  other.LoadProgress(progress);
  EXPECT_EQ(other.in_flight(), 1);
  auto third = other.Pop();
  ASSERT_TRUE(third.ok());
  EXPECT_TRUE(third->has_value());
  EXPECT_TRUE(other.Pop().ok());
  EXPECT_FALSE((*other.Pop()).has_value());
  EXPECT_FALSE(Queue::CheckProgress(kSize, {.next_available = 20, .next_used = 11}).ok());
  EXPECT_FALSE(Queue::CheckProgress(kSize, {.next_available = 11, .next_used = 12}).ok());
  EXPECT_TRUE(Queue::CheckProgress(kSize, {.next_available = 3, .next_used = 0xfffb}).ok());
}

class HostileQueueTest : public QueueTest, public testing::WithParamInterface<HostileChain> {};

TEST_P(HostileQueueTest, IsAnErrorAndStaysOne) {
  Enable(/*event_index=*/false, GetParam().indirect);
  GetParam().submit(*driver_);
  EXPECT_FALSE(queue_.Pop().ok());
  EXPECT_FALSE(queue_.Pop().ok());
  EXPECT_EQ(queue_.in_flight(), 0);
  // A reset, and all is well again.
  queue_.Disable();
  Enable();
  driver_->Chain().Writable(16).Submit();
  EXPECT_EQ(PopOne().writable_bytes(), 16u);
}

INSTANTIATE_TEST_SUITE_P(All, HostileQueueTest, testing::ValuesIn(HostileChains()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace ferrite::virtio
