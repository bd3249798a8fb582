#include "vmm/control/mirror_rpc.h"

#include <capnp/message.h>
#include <capnp/schema.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace ferrite {
namespace {

using migration::CopyMode;
using migration::ErrorPolicy;
using migration::MirrorState;

MirrorStatus Told(const MirrorStatus& mirror) {
  capnp::MallocMessageBuilder message;
  const auto told = message.initRoot<control::Mirror>();
  FillMirror(mirror, told);
  return ReadMirror(told.asReader());
}

TEST(MirrorRpcTest, EveryStateIsReadAsItWasTold) {
  for (int state = 0; state <= static_cast<int>(MirrorState::kFailed); ++state) {
    MirrorStatus mirror;
    mirror.figures.state = static_cast<MirrorState>(state);
    EXPECT_EQ(Told(mirror).figures.state, mirror.figures.state) << migration::MirrorStateName(mirror.figures.state);
  }
  capnp::MallocMessageBuilder message;
  auto told = message.initRoot<control::Mirror>();
  told.setState("thinking");
  EXPECT_EQ(ReadMirror(told.asReader()).figures.state, MirrorState::kRunning);
}

TEST(MirrorRpcTest, EveryFigureIsReadAsItWasTold) {
  const MirrorStatus mirror = {
      .number = 1,
      .disk = "root",
      .target = "/images/new.img",
      .what = "file",
      .auto_complete = true,
      .figures = {.state = MirrorState::kPaused,
                  .copy_mode = CopyMode::kWriteBlocking,
                  .total_bytes = 2,
                  .done_bytes = 3,
                  .dirty_bytes = 4,
                  .in_flight_bytes = 5,
                  .copied_bytes = 6,
                  .zero_bytes = 7,
                  .again_bytes = 8,
                  .rate = 9,
                  .dirty_rate = 10,
                  .held_writes = 11,
                  .errors = 12,
                  .took = absl::Nanoseconds(13),
                  .ready_after = absl::Nanoseconds(14),
                  .cause = "no space left on device"},
      .over = true,
      .result = absl::CancelledError("it was cancelled"),
      .end = MirrorEnd::kKept,
      .standstill = absl::Nanoseconds(15),
  };
  // A field that is added to the schema is to be added here.
  EXPECT_EQ(capnp::Schema::from<control::Mirror>().getFields().size(), 25u);
  const MirrorStatus read = Told(mirror);
  EXPECT_EQ(read.number, mirror.number);
  EXPECT_EQ(read.disk, mirror.disk);
  EXPECT_EQ(read.target, mirror.target);
  EXPECT_EQ(read.what, mirror.what);
  EXPECT_EQ(read.auto_complete, mirror.auto_complete);
  EXPECT_EQ(read.figures.state, mirror.figures.state);
  EXPECT_EQ(read.figures.copy_mode, mirror.figures.copy_mode);
  EXPECT_EQ(read.figures.total_bytes, mirror.figures.total_bytes);
  EXPECT_EQ(read.figures.done_bytes, mirror.figures.done_bytes);
  EXPECT_EQ(read.figures.dirty_bytes, mirror.figures.dirty_bytes);
  EXPECT_EQ(read.figures.in_flight_bytes, mirror.figures.in_flight_bytes);
  EXPECT_EQ(read.figures.copied_bytes, mirror.figures.copied_bytes);
  EXPECT_EQ(read.figures.zero_bytes, mirror.figures.zero_bytes);
  EXPECT_EQ(read.figures.again_bytes, mirror.figures.again_bytes);
  EXPECT_EQ(read.figures.rate, mirror.figures.rate);
  EXPECT_EQ(read.figures.dirty_rate, mirror.figures.dirty_rate);
  EXPECT_EQ(read.figures.held_writes, mirror.figures.held_writes);
  EXPECT_EQ(read.figures.errors, mirror.figures.errors);
  EXPECT_EQ(read.figures.took, mirror.figures.took);
  EXPECT_EQ(read.figures.ready_after, mirror.figures.ready_after);
  EXPECT_EQ(read.figures.cause, mirror.figures.cause);
  EXPECT_EQ(read.over, mirror.over);
  EXPECT_EQ(read.result, mirror.result);
  EXPECT_EQ(read.end, mirror.end);
  EXPECT_EQ(read.standstill, mirror.standstill);
}

TEST(MirrorRpcTest, EveryEndIsReadAsItWasTold) {
  for (const MirrorEnd end : {MirrorEnd::kLeft, MirrorEnd::kRemoved, MirrorEnd::kKept, MirrorEnd::kDisk}) {
    EXPECT_EQ(Told({.over = true, .end = end}).end, end);
  }
}

TEST(MirrorRpcTest, EveryOptionIsReadAsItWasTold) {
  for (const ErrorPolicy policy :
       {ErrorPolicy::kReport, ErrorPolicy::kIgnore, ErrorPolicy::kStop, ErrorPolicy::kEnospc}) {
    const migration::MirrorOptions options = {.granularity = 4096,
                                              .buffer_bytes = 1 << 20,
                                              .in_flight = 3,
                                              .copy_mode = CopyMode::kWriteBlocking,
                                              .max_bandwidth = 5,
                                              .on_source_error = policy,
                                              .on_target_error = ErrorPolicy::kStop,
                                              .downtime_limit = absl::Nanoseconds(7)};
    capnp::MallocMessageBuilder message;
    const auto told = message.initRoot<control::MirrorOptions>();
    FillMirrorOptions(options, told);
    EXPECT_EQ(capnp::Schema::from<control::MirrorOptions>().getFields().size(), 8u);
    const migration::MirrorOptions read = ReadMirrorOptions(told.asReader());
    EXPECT_EQ(read.granularity, options.granularity);
    EXPECT_EQ(read.buffer_bytes, options.buffer_bytes);
    EXPECT_EQ(read.in_flight, options.in_flight);
    EXPECT_EQ(read.copy_mode, options.copy_mode);
    EXPECT_EQ(read.max_bandwidth, options.max_bandwidth);
    EXPECT_EQ(read.on_source_error, options.on_source_error);
    EXPECT_EQ(read.on_target_error, options.on_target_error);
    EXPECT_EQ(read.downtime_limit, options.downtime_limit);
  }
}

// What a client of another version leaves out is as without the words on the command line.
TEST(MirrorRpcTest, OptionsThatAreNotToldAreTheDefaults) {
  capnp::MallocMessageBuilder message;
  const migration::MirrorOptions read = ReadMirrorOptions(message.initRoot<control::MirrorOptions>().asReader());
  const migration::MirrorOptions defaults;
  EXPECT_EQ(read.granularity, defaults.granularity);
  EXPECT_EQ(read.buffer_bytes, defaults.buffer_bytes);
  EXPECT_EQ(read.in_flight, defaults.in_flight);
  EXPECT_EQ(read.copy_mode, defaults.copy_mode);
  EXPECT_EQ(read.max_bandwidth, defaults.max_bandwidth);
  EXPECT_EQ(read.on_source_error, defaults.on_source_error);
  EXPECT_EQ(read.on_target_error, defaults.on_target_error);
  EXPECT_EQ(read.downtime_limit, defaults.downtime_limit);
}

}  // namespace
}  // namespace ferrite
