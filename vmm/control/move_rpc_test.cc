#include "vmm/control/move_rpc.h"

#include <capnp/message.h>
#include <capnp/schema.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/processors.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/api/move_state.h"
#include "migration/api/rdma_options.h"
#include "vmm/control/move_figures.h"

namespace ferrite {
namespace {

using migration::MoveState;

TEST(MoveRpcTest, EveryStateIsReadAsItWasTold) {
  int states = 0;
  for (; migration::MoveStateName(static_cast<MoveState>(states)) != "unknown"; ++states) {
    MoveStatus move;
    move.progress.state = static_cast<MoveState>(states);
    move.progress.granted_for = absl::Seconds(1 + states);
    capnp::MallocMessageBuilder message;
    const auto told = message.initRoot<control::Move>();
    FillMove(move, told);
    EXPECT_EQ(ReadMove(told.asReader()).progress.state, move.progress.state)
        << migration::MoveStateName(move.progress.state);
    EXPECT_EQ(ReadMove(told.asReader()).progress.granted_for, move.progress.granted_for);
  }
  EXPECT_EQ(states, static_cast<int>(MoveState::kCancelled) + 1);
}

TEST(MoveRpcTest, EveryPartIsReadAsItWasTold) {
  const std::vector<migration::PartFigures> parts = {{.name = "disk root",
                                                      .bytes = 1,
                                                      .data_bytes = 2,
                                                      .zero_bytes = 3,
                                                      .again_bytes = 4,
                                                      .ready_after = absl::Nanoseconds(5),
                                                      .write_blocking = true},
                                                     {.name = "disk data", .bytes = 6, .shared = true}};
  MoveStatus move;
  move.progress.parts = parts;
  for (const bool over : {false, true}) {
    move.over = over;
    capnp::MallocMessageBuilder message;
    const auto told = message.initRoot<control::Move>();
    FillMove(move, told);
    const MoveStatus read = ReadMove(told.asReader());
    EXPECT_EQ(read.progress.parts, parts);
    EXPECT_EQ(read.report.parts, over ? parts : std::vector<migration::PartFigures>());
    move.report.parts = std::exchange(move.progress.parts, {});
  }
  EXPECT_EQ(capnp::Schema::from<control::Move::Part>().getFields().size(), 8u);
}

TEST(MoveRpcTest, WhatIsAskedForOfDisksIsReadAsItWasTold) {
  for (const auto disks : {migration::DiskMoves::kAuto, migration::DiskMoves::kShared, migration::DiskMoves::kMirror}) {
    capnp::MallocMessageBuilder message;
    const auto told = message.initRoot<control::MoveOptions>();
    FillMoveOptions({.disks = disks}, told);
    EXPECT_EQ(ReadMoveOptions(told.asReader()).disks, disks);
  }
}

TEST(MoveRpcTest, HowMemoryIsRegisteredIsReadAsItWasTold) {
  using migration::kLeastRdmaChunk;
  using migration::kMostRdmaChunk;
  using migration::RdmaOptions;
  using migration::RdmaPin;
  for (const RdmaOptions& rdma :
       {RdmaOptions{}, RdmaOptions{.pin = RdmaPin::kAll}, RdmaOptions{.chunk_bytes = kLeastRdmaChunk}}) {
    capnp::MallocMessageBuilder message;
    const auto told = message.initRoot<control::MoveOptions>();
    FillMoveOptions({.rdma = rdma}, told);
    EXPECT_EQ(ReadMoveOptions(told.asReader()).rdma, rdma);
  }
  // Of a client that says what nobody can register.
  capnp::MallocMessageBuilder message;
  auto told = message.initRoot<control::MoveOptions>();
  for (const auto& [said, read] :
       {std::pair{uint64_t{0}, kLeastRdmaChunk}, std::pair{uint64_t{3} << 20, kLeastRdmaChunk},
        std::pair{~uint64_t{0}, kMostRdmaChunk}}) {
    told.setRdmaChunk(said);
    EXPECT_EQ(ReadMoveOptions(told.asReader()).rdma.chunk_bytes, read) << said;
  }
}

// As many channels as help: whoever asks does not know how many processors the monitor has.
TEST(MoveRpcTest, ChannelsAreReadAsTheyWereTold) {
  for (const bool count : {false, true}) {
    capnp::MallocMessageBuilder message;
    const auto told = message.initRoot<control::MoveOptions>();
    FillMoveOptions({.channels = 5, .count_channels = count}, told);
    EXPECT_EQ(told.asReader().getChannels(), count ? 0 : 5) << "a monitor that does not know it refuses 0";
    const migration::MoveOptions read = ReadMoveOptions(told.asReader());
    EXPECT_EQ(read.count_channels, count);
    EXPECT_EQ(read.channels, count ? migration::MostChannelsFor(UsableProcessors()) : 5);
  }
}

TEST(MoveRpcTest, StateThatIsNotKnownHereIsNone) {
  capnp::MallocMessageBuilder message;
  auto told = message.initRoot<control::Move>();
  EXPECT_EQ(ReadMove(told.asReader()).progress.state, MoveState::kNone);
  told.setState("thinking");
  EXPECT_EQ(ReadMove(told.asReader()).progress.state, MoveState::kNone);
}

// A field of the schema without a row would be told as 0.
TEST(MoveRpcTest, EveryFigureIsReadAsItWasTold) {
  MoveStatus move;
  move.over = true;
  uint32_t figures = 0;
  const auto value = [](auto& figure, uint32_t number) {
    if constexpr (std::is_same_v<decltype(figure), absl::Duration&>) {
      figure = absl::Nanoseconds(number);
    } else {
      figure = number;
    }
  };
  ForEachFigure([&](const char*, FigureOf, auto figure, auto, auto) { value(move.report.*figure, ++figures); });
  move.report.postcopy = true;
  move.report.counted_channels = true;
  move.report.channel_rates = {112 << 20, 113 << 20};
  move.report.lost_at = {4096, 0x1000000};
  move.report.waiting = {{.vcpu = 2,
                          .count = 3,
                          .p50 = absl::Nanoseconds(4),
                          .p99 = absl::Nanoseconds(5),
                          .max = absl::Nanoseconds(6),
                          .sum = absl::Nanoseconds(7)}};
  EXPECT_EQ(figures + 5, capnp::Schema::from<::ferrite::figures::MoveReport>().getFields().size());

  capnp::MallocMessageBuilder message;
  const auto told = message.initRoot<control::Move>();
  FillMove(move, told);
  const migration::MoveReport read = ReadMove(told.asReader()).report;
  uint32_t number = 0;
  ForEachFigure([&](const char* name, FigureOf, auto figure, auto, auto) {
    migration::MoveReport expected;
    value(expected.*figure, ++number);
    EXPECT_EQ(read.*figure, expected.*figure) << name;
  });
  // The rows go together: what a row means is what the schema calls it.
  EXPECT_EQ(told.asReader().getReport().getTotal(), absl::ToInt64Nanoseconds(move.report.total));
  EXPECT_EQ(told.asReader().getReport().getZeroPages(), move.report.zero_pages);
  EXPECT_EQ(told.asReader().getReport().getCopiedPages(), move.report.copied_pages);
  EXPECT_EQ(told.asReader().getReport().getMovedPages(), move.report.moved_pages);
  EXPECT_EQ(told.asReader().getReport().getHugeBytes(), move.report.huge_bytes);
  EXPECT_EQ(told.asReader().getReport().getRecoveries(), move.report.recoveries);
  EXPECT_TRUE(read.postcopy);
  EXPECT_TRUE(read.counted_channels);
  EXPECT_EQ(read.channel_rates, move.report.channel_rates);
  EXPECT_EQ(read.lost_at, move.report.lost_at);
  ASSERT_EQ(read.waiting.size(), 1u);
  EXPECT_EQ(read.waiting[0].vcpu, 2u);
  EXPECT_EQ(read.waiting[0].count, 3u);
  EXPECT_EQ(read.waiting[0].p50, absl::Nanoseconds(4));
  EXPECT_EQ(read.waiting[0].p99, absl::Nanoseconds(5));
  EXPECT_EQ(read.waiting[0].max, absl::Nanoseconds(6));
  EXPECT_EQ(read.waiting[0].sum, absl::Nanoseconds(7));
}

}  // namespace
}  // namespace ferrite
