// All at once: a guest that writes at random, operations that end in any order and fail at random, modes that change,
// pauses; whatever comes of it, the target is equal in the end, and a write that was held is at the target when it is
// answered. The seed is in the name of what fails.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "migration/api/block_io.h"
#include "migration/sending/mirror.h"
#include "tests/fakes/fake_block_io.h"
#include "tests/fakes/mirror_rig.h"

namespace ferrite::migration {
namespace {

class Play {
 public:
  explicit Play(uint32_t seed) : random_(seed), rig_(MakeShape()) {}

  void Run() {
    Prepare();
    rig_.Start();
    for (int step = 0; step < 400 && !testing::Test::HasFailure(); ++step) {
      Step();
    }
    // Nothing fails from here on, and nobody writes.
    fails_ = false;
    writes_ = false;
    rig_.mirror->SetMaxBandwidth(0);
    (void)rig_.mirror->Resume();
    for (int step = 0; step < 20'000 && rig_.figures().state != MirrorState::kCompleted; ++step) {
      Step();
      (void)rig_.mirror->Resume();
      if (rig_.figures().state == MirrorState::kReady) {
        const absl::Status drained = rig_.mirror->Drain();
        ASSERT_TRUE(drained.ok() || rig_.figures().drain_time == absl::InfiniteDuration()) << drained;
      }
    }
    ASSERT_EQ(rig_.figures().state, MirrorState::kCompleted);
    rig_.ExpectEqual();
    EXPECT_TRUE(rig_.held.empty());
    const MirrorFigures figures = rig_.figures();
    EXPECT_EQ(figures.done_bytes, figures.total_bytes);
    EXPECT_TRUE(rig_.mirror->idle());
  }
  uint64_t held() const { return rig_.figures().held_writes; }
  uint64_t errors() const { return rig_.figures().errors; }

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }
  template <typename Value>
  Value OneOf(std::initializer_list<Value> values) {
    return values.begin()[Below(values.size())];
  }

  MirrorRig::Shape MakeShape() {
    MirrorRig::Shape shape;
    const uint32_t source_block = OneOf<uint32_t>({512, 4096});
    const uint32_t target_block = OneOf<uint32_t>({512, 4096, 65536});
    const uint32_t block = std::max(source_block, target_block);
    const uint64_t bytes = (1 + Below(3 * kMiB / block)) * block;
    shape.source = {.name = "source", .bytes = bytes, .block_bytes = source_block, .cluster_bytes = source_block};
    shape.source.knows_extents = Below(4) != 0;
    shape.target = {.name = "target", .bytes = bytes + Below(3) * target_block, .block_bytes = target_block};
    shape.target.cluster_bytes = std::max(target_block, OneOf<uint32_t>({512, 4096, 65536, 262144, kMiB}));
    shape.options.granularity = OneOf<uint32_t>({4096, 16384, 65536, kMiB});
    shape.options.buffer_bytes = OneOf<uint32_t>({1, 2, 5, 16}) * uint64_t{kMiB};
    shape.options.in_flight = OneOf<uint32_t>({1, 2, 5, 16, 64});
    shape.options.copy_mode = OneOf({CopyMode::kBackground, CopyMode::kWriteBlocking});
    shape.options.max_bandwidth = Below(3) == 0 ? 1 + Below(100 * kMiB) : 0;
    shape.options.on_source_error = OneOf({ErrorPolicy::kIgnore, ErrorPolicy::kStop});
    shape.options.on_target_error = OneOf({ErrorPolicy::kIgnore, ErrorPolicy::kStop, ErrorPolicy::kEnospc});
    shape.options.target_is_zero = Below(2) == 0;
    return shape;
  }

  void Prepare() {
    const uint64_t bytes = rig_.source.bytes();
    for (uint64_t i = Below(6); i > 0; --i) {
      const uint64_t offset = Below(bytes);
      rig_.Fill(offset, 1 + Below(bytes - offset));
    }
    for (uint64_t i = Below(4); i > 0; --i) {
      const uint64_t offset = Below(bytes);
      const std::vector<uint8_t> zeroes(1 + Below(bytes - offset), 0);
      rig_.source.content.Write(offset, zeroes.data(), zeroes.size());
    }
    if (!rig_.options.target_is_zero && Below(2) == 0) {
      rig_.target.content.Write(0, MirrorRig::Data(0, bytes, 99).data(), bytes);
    }
    for (FakeBlockIo* const side : {&rig_.source, &rig_.target}) {
      side->at_kick = [this](const BlockOperation&) { return Below(2) == 0; };
      side->fails = [this, side](const BlockOperation&) {
        if (!fails_ || Below(8) != 0) {
          return absl::OkStatus();
        }
        return side == &rig_.target ? absl::ResourceExhaustedError("full") : absl::DataLossError("bad");
      };
    }
    // Between a question and what is done with the answer.
    rig_.source.asked = [this](uint64_t) {
      if (rig_.mirror != nullptr && Below(4) == 0) {
        Guest();
      }
    };
    rig_.answered = [this](uint64_t ticket) { CheckAnswer(ticket); };
  }

  void Step() {
    errors_before_ = rig_.figures().errors;
    if (Below(3) == 0) {
      Guest();
    }
    FakeBlockIo& side = Below(2) == 0 ? rig_.source : rig_.target;
    for (uint64_t i = Below(4); i > 0 && side.ready() > 0; --i) {
      side.End(Below(side.ready()));
    }
    if (Below(3) == 0) {
      rig_.now += absl::Microseconds(static_cast<int64_t>(Below(30'000)));
    }
    if (writes_ && Below(40) == 0) {
      switch (Below(4)) {
        case 0:
          rig_.mirror->SetCopyMode(OneOf({CopyMode::kBackground, CopyMode::kWriteBlocking}));
          break;
        case 1:
          (void)rig_.mirror->Pause();
          break;
        case 2:
          rig_.mirror->SetMaxBandwidth(Below(2) * Below(100 * kMiB));
          break;
        default:
          if (rig_.mirror->Drain().ok() && Below(8) != 0) {
            (void)rig_.mirror->WithdrawDrain();
          }
          break;
      }
    }
    if (Below(10) == 0) {
      (void)rig_.mirror->Resume();
      (void)rig_.mirror->WithdrawDrain();
    }
    if (rig_.turn_soon || rig_.next <= rig_.now || Below(10) == 0) {
      // As the contract has it: what runs out of time is called at its time.
      rig_.Turn();
    }
    const MirrorFigures figures = rig_.figures();
    ASSERT_EQ(figures.done_bytes + figures.dirty_bytes + figures.in_flight_bytes, figures.total_bytes);
    ASSERT_LE(rig_.source.in_flight() + rig_.target.in_flight(), rig_.options.in_flight);
  }

  void Guest() {
    const MirrorState state = rig_.figures().state;
    if (!writes_ || state == MirrorState::kCompleting || state == MirrorState::kCompleted) {
      return;
    }
    const uint64_t bytes = rig_.source.bytes();
    // Often the same places.
    const uint64_t offset = (Below(2) == 0 ? Below(8) * (bytes / 8) : Below(bytes)) / 512 * 512;
    const uint64_t most = Below(8) == 0 ? bytes : 16384;
    const uint64_t length = std::min((1 + Below(most / 512)) * 512, bytes - offset);
    const uint64_t ticket =
        Below(5) == 0 ? rig_.Discard(offset, length) : rig_.Write(offset, length, static_cast<uint8_t>(++salt_ % 97));
    if (ticket != 0) {
      std::vector<uint8_t> wrote(length);
      rig_.source.content.Read(offset, wrote.data(), length);
      writes_held_[ticket] = {offset, std::move(wrote)};
    }
    // What is overwritten before it is answered may be at the target in either form.
    for (auto& [other, write] : writes_held_) {
      if (other != ticket && write.offset < offset + length && offset < write.offset + write.bytes.size()) {
        write.is_overwritten = true;
      }
    }
  }

  void CheckAnswer(uint64_t ticket) {
    const auto found = writes_held_.find(ticket);
    ASSERT_NE(found, writes_held_.end());
    const MirrorFigures figures = rig_.figures();
    const bool still_holds = figures.copy_mode == CopyMode::kWriteBlocking && figures.state != MirrorState::kPaused &&
                             figures.state != MirrorState::kCancelled && figures.errors == errors_before_;
    if (still_holds && !found->second.is_overwritten) {
      std::vector<uint8_t> there(found->second.bytes.size());
      rig_.target.content.Read(found->second.offset, there.data(), there.size());
      EXPECT_EQ(there, found->second.bytes) << "answered before it was at the target: " << found->second.offset;
    }
    writes_held_.erase(found);
  }

  struct HeldWrite {
    uint64_t offset = 0;
    std::vector<uint8_t> bytes;
    bool is_overwritten = false;
  };

  std::mt19937 random_;
  MirrorRig rig_;
  bool fails_ = true;
  bool writes_ = true;
  uint64_t salt_ = 0;
  uint64_t errors_before_ = 0;
  std::map<uint64_t, HeldWrite> writes_held_;
};

TEST(MirrorRandomTest, TheTargetIsEqualInTheEnd) {
  uint64_t held = 0;
  uint64_t errors = 0;
  for (uint32_t seed = 0; seed < 100 && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Play play(seed);
    play.Run();
    held += play.held();
    errors += play.errors();
  }
  // It did try something.
  EXPECT_GT(held, 1000u);
  EXPECT_GT(errors, 1000u);
}

}  // namespace
}  // namespace ferrite::migration
