// A thing of blocks that somebody works on while it moves: a second part of a move, as a disk would be.
#ifndef FERRITE_TESTS_FAKES_FAKE_BLOCKS_H_
#define FERRITE_TESTS_FAKES_FAKE_BLOCKS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "memory/page_bitmap.h"
#include "memory/page_range.h"
#include "migration/api/machine_spec.h"
#include "migration/placing/incoming_part.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"
#include "migration/placing/request_queue.h"
#include "migration/sending/outgoing_part.h"

namespace ferrite::migration {

// What a test wants to go wrong with one.
enum class BlocksFailure {
  kNone,
  kStartTracking,
  kCollectDirty,
  kSend,
  kCheck,
  kPrepare,
  kFill,
  kArm,
  kPublish,
  kSettle,  // once
  kFlush,
};

// Its user visits the first 900 blocks in no order, checks that each holds what the last visit has left there, and
// leaves something else (R1: a block that is older, or partly filled, is found). The last 100 are never written.
// Threads: the test's.
class FakeBlocks {
 public:
  static constexpr uint64_t kBlocks = 1000;  // of 4 KiB
  static constexpr uint64_t kWorkedOn = 900;

  FakeBlocks();
  ~FakeBlocks() { Pause(); }

  void Run();
  // Also where the user waits for a block.
  void Pause();
  bool running() const { return thread_.joinable(); }
  void AwaitVisits(uint64_t count) const;
  // Until its user has ended by itself: its wait for a block was given up.
  void AwaitEnd() { thread_.Join(); }
  // Blocks that did not hold what they should, so far.
  uint64_t errors() const { return errors_; }
  // Paused: the same, of all.
  uint64_t CheckAll() const;
  // How often the user waited for a block that had not come.
  uint64_t waits() const { return waits_; }
  bool tracking() const { return outgoing_.tracking; }
  bool declined() const { return outgoing_.declined; }
  // Paused: its user knows what that of `other` knows.
  void Remember(const FakeBlocks& other) { left_ = other.left_; }

  OutgoingPart& outgoing() { return outgoing_; }
  IncomingPart& incoming() { return incoming_; }

  std::atomic<BlocksFailure> failure{BlocksFailure::kNone};
  // While they are worked on, and their user does not wait for what it wrote to arrive, all count as written at every
  // look.
  std::atomic<bool> restless{false};
  bool mirrored = false;
  bool can_block = false;
  uint64_t odd_bytes = 0;  // of a size that is wrong
  // So many, from the first one, its user discards when it is asked what need not be read: these, and the last 100,
  // which are zero, too.
  uint64_t discards = 0;
  // Called before something is sent.
  std::function<void()> on_send;
  // Called before blocks that came become zero, on the thread of their channel.
  std::function<void()> on_zero;
  // Called while what came is put into place, and while it is written out.
  std::function<void()> on_fill;
  std::function<void()> on_flush;

  // How often something was sent, it was flushed, and it heard that its guest does not come.
  int sends() const { return outgoing_.sends; }
  int flushes() const { return incoming_.flushes; }
  // How many blocks came with bytes, in the rounds.
  uint64_t filled() const { return filled_; }
  // Whether all that came was flushed.
  bool flushed() const { return flushed_; }
  int abandoned() const { return incoming_.abandoned; }
  // How often the user waited until what it wrote had arrived; and whether it would.
  uint64_t held() const { return held_; }
  bool blocking() const { return blocking_; }
  // How often it heard that all had arrived.
  int deliveries() const { return outgoing_.deliveries; }
  // This block is not here after all.
  void Forget(uint64_t block) { (void)states_.Discard(block); }

 private:
  struct alignas(4096) Block {
    uint64_t first = 0;
    uint64_t between[4096 / sizeof(uint64_t) - 2] = {};
    uint64_t last = 0;
  };

  class Outgoing final : public OutgoingPart {
   public:
    explicit Outgoing(FakeBlocks& blocks) : blocks_(blocks) {}
    absl::string_view name() const override { return "blocks"; }
    std::vector<MachineSpec::Region> regions() const override;
    absl::Status StartTracking() override;
    void StopTracking() override { tracking = false; }
    bool mirrored() const override { return blocks_.mirrored && !declined; }
    void Decline() override { declined = true; }
    bool SetBlocking(bool on) override;
    void Delivered() override;
    MonotonicTime LetGo(MonotonicTime since) override;
    absl::Status CollectDirty(size_t region, PageBitmap& dirty) override;
    absl::Status AddSkipped(size_t region, PageBitmap& skipped) override;
    absl::Status Send(PageSender& sender, size_t region, const PageRange& run, uint64_t pages_per_unit) override;

    std::atomic<bool> tracking{false};
    std::atomic<int> sends{0};
    std::atomic<int> deliveries{0};
    bool declined = false;

   private:
    FakeBlocks& blocks_;
  };
  // A block is shown by its state: who waits for it looks at that.
  class BlockPlacer final : public Placer {
   public:
    BlockPlacer(FakeBlocks& blocks, PageStates& states) : Placer(states, kBlocks, 1), blocks_(blocks) {}
    absl::Status Explain(const absl::Status& error) const override { return error; }
    absl::StatusOr<std::span<uint8_t>> FillTarget(PageRun run) override;
    absl::StatusOr<std::span<uint8_t>> StageTarget(PageRun run, Showing) override { return blocks_.At(run); }
    absl::Status Publish(PageRun run, const uint8_t* buffer) override;
    absl::StatusOr<uint64_t> PublishZero(PageRun run, Showing showing) override;

   protected:
    absl::Status Put(PageRun run, const uint8_t* buffer) override;
    absl::Status PutZero(PageRun run) override;
    absl::Status Drop(PageRun run) override;

   private:
    FakeBlocks& blocks_;
    // Where blocks are read to before the switchover, and written into place from, as a disk's are.
    std::vector<Block> staged_ = std::vector<Block>(kBlocks);
  };
  class Incoming final : public IncomingPart {
   public:
    explicit Incoming(FakeBlocks& blocks) : blocks_(blocks) {}
    absl::string_view name() const override { return "blocks"; }
    size_t regions() const override { return 1; }
    Placer& placer(size_t) override { return blocks_.placer_; }
    absl::Status Check(std::span<const MachineSpec::Region> theirs) const override;
    bool mirrored() const override { return blocks_.mirrored; }
    absl::Status Flush() override;
    void Abandoned() override { ++abandoned; }
    absl::Status OfferFaults(const UserfaultOpener&) override { return absl::OkStatus(); }
    void WithdrawFaults() override {}
    absl::Status Prepare() override;
    absl::Status Arm(RequestQueue& requests, uint16_t first_region) override;
    absl::Status WakeWaiting() override;
    void LetGo() override { blocks_.End(); }
    absl::Status Settle() override;

    std::atomic<int> flushes{0};
    std::atomic<int> abandoned{0};

   private:
    FakeBlocks& blocks_;
  };

  absl::Status Fail(BlocksFailure where) const;
  std::span<uint8_t> At(PageRun run);
  void Visit(uint64_t visit);
  void Discard();
  // Whether `block` is here, after a wait where it had not come; false at the end.
  bool Await(uint64_t block);
  // Where it is to wait for that: until what was just written has arrived.
  void AwaitDelivery();
  void Wake() { const TimedMutexLock lock(&mutex_); }
  void End();

  std::vector<Block> blocks_;
  std::vector<uint64_t> left_;  // by block: what its user left there
  PageBitmap dirty_{kBlocks};
  PageStates states_{kBlocks};
  std::atomic<uint64_t> visits_{0};
  std::atomic<uint64_t> errors_{0};
  std::atomic<uint64_t> waits_{0};
  std::atomic<uint64_t> held_{0};
  std::atomic<bool> blocking_{false};
  std::atomic<uint64_t> let_go_{0};  // how often nobody was to wait any more
  std::atomic<bool> flushed_{true};
  std::atomic<uint64_t> filled_{0};
  std::atomic<bool> discarding_{false};
  std::atomic<uint64_t> looks_{0};                // for what was written
  std::atomic<uint64_t> delivered_{0};            // so many of these
  std::atomic<RequestQueue*> requests_{nullptr};  // while blocks may be missing
  std::atomic<uint16_t> region_{0};
  TimedMutex mutex_;
  // Since when its user waits until what it wrote has arrived.
  MonotonicTime held_since_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::InfiniteFuture();
  std::atomic<bool> end_{false};
  Outgoing outgoing_{*this};
  Incoming incoming_{*this};
  BlockPlacer placer_{*this, states_};
  Thread thread_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_FAKE_BLOCKS_H_
