// A witness' answers, and its coming and going, on threads beside the device's, with a real engine.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/event_loop.h"
#include "devices/block/async_io.h"
#include "devices/block/block.h"
#include "devices/block/block_fixture.h"
#include "devices/block/write_witness.h"

namespace ferrite {
namespace {

// Hands its tickets to a thread that answers them, the newest of those that are there first.
class AnsweringWitness final : public WriteWitness {
 public:
  explicit AnsweringWitness(Block& block) : block_(block), thread_([this] { Answer(); }) {}
  ~AnsweringWitness() override {
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    thread_.join();
  }

  uint64_t Wrote(uint64_t, uint64_t bytes) override {
    absl::MutexLock lock(&mutex_);
    told_bytes_ += bytes;
    tickets_.push_back(++last_ticket_);
    return last_ticket_;
  }
  uint64_t told_bytes() const {
    absl::MutexLock lock(&mutex_);
    return told_bytes_;
  }

 private:
  void Answer() {
    for (;;) {
      uint64_t ticket = 0;
      {
        absl::MutexLock lock(&mutex_);
        const auto called = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ending_ || !tickets_.empty(); };
        mutex_.Await(absl::Condition(&called));
        if (tickets_.empty()) {
          return;
        }
        ticket = tickets_.back();
        tickets_.pop_back();
      }
      block_.AnswerHeld(ticket);
    }
  }

  Block& block_;
  mutable absl::Mutex mutex_;
  std::vector<uint64_t> tickets_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t told_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

class WitnessEngineTest : public testing::Test {
 protected:
  static constexpr uint16_t kWrites = 60;

  void SetUp() override {
    auto loop = EventLoop::Create("block-test");
    ASSERT_TRUE(loop.ok());
    loop_ = *std::move(loop);
    auto io = AsyncIo::Create(*loop_, kBlockQueueSize);
    ASSERT_TRUE(io.ok()) << io.status();
    harness_ = std::make_unique<VirtioHarness>(uint64_t{64} << 20, loop_.get());
    auto device = std::make_unique<Block>("root", file_.Open(), *std::move(io));
    device_ = device.get();
    harness_->Attach(std::move(device));
    harness_->Start(harness_->driver().OfferedFeatures());
  }
  void SetWitness(WriteWitness* witness) {
    const virtio::Device::Lock lock(device_);
    device_->SetWitness(witness);
  }
  void SubmitWrites() {
    for (uint16_t i = 0; i < kWrites; ++i) {
      harness_->queue(0)
          .Chain()
          .ReadableObject(BlockRequestHeader{.type = kBlockWrite, .sector = i})
          .Readable(Bytes(std::string(512, 'w')))
          .Writable(1)
          .SubmitIndirect();
    }
    harness_->Kick(0);
  }
  void AwaitUsed(uint16_t used_index) { ferrite::AwaitUsed(*harness_, used_index); }

  ImageFile file_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<VirtioHarness> harness_;
  Block* device_ = nullptr;
};

TEST_F(WitnessEngineTest, EveryWriteIsAnsweredAndTold) {
  AnsweringWitness witness(*device_);
  SetWitness(&witness);
  constexpr int kRounds = 50;
  for (int round = 1; round <= kRounds; ++round) {
    SubmitWrites();
    if (round % 5 == 0) {
      harness_->transport().Quiesce();
      harness_->transport().Resume();
    }
    AwaitUsed(static_cast<uint16_t>(round * kWrites));
    if (HasFatalFailure()) {
      break;
    }
  }
  EXPECT_EQ(witness.told_bytes(), uint64_t{kRounds} * kWrites * kSectorBytes);
  SetWitness(nullptr);
}

// One that never answers goes while writes are on their way: none is left behind.
TEST_F(WitnessEngineTest, ItMayGoAtAnyTime) {
  class Silent final : public WriteWitness {
   public:
    uint64_t Wrote(uint64_t, uint64_t) override { return ++tickets; }
    std::atomic<uint64_t> tickets{0};
  };
  Silent silent;
  std::atomic<bool> ending{false};
  std::thread answers([&] {
    for (uint64_t ticket = 0; !ending; ++ticket) {
      device_->AnswerHeld(ticket % 1000);
    }
  });
  for (int round = 1; round <= 100; ++round) {
    SetWitness(&silent);
    SubmitWrites();
    if (round % 2 == 0) {
      loop_->RunAndWait([] {});
    }
    SetWitness(nullptr);
    AwaitUsed(static_cast<uint16_t>(round * kWrites));
    if (HasFatalFailure()) {
      break;
    }
  }
  ending = true;
  answers.join();
}

}  // namespace
}  // namespace ferrite
