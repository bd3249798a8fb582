#include "vmm/app/mirror_text.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace ferrite {
namespace {

using migration::CopyMode;
using migration::MirrorState;

constexpr uint64_t kMiB = 1 << 20;

MirrorStatus Running() {
  return {.number = 3,
          .disk = "root",
          .target = "/images/new.img",
          .what = "file, made here",
          .figures = {.state = MirrorState::kRunning,
                      .total_bytes = 4096 * kMiB,
                      .done_bytes = 1024 * kMiB,
                      .dirty_bytes = 3070 * kMiB,
                      .in_flight_bytes = 2 * kMiB,
                      .copied_bytes = 1024 * kMiB,
                      .zero_bytes = 512 * kMiB,
                      .again_bytes = 1 * kMiB,
                      .rate = 300.0 * kMiB,
                      .took = absl::Seconds(3)}};
}

TEST(MirrorTextTest, ProgressIsALine) {
  MirrorStatus mirror = Running();
  EXPECT_EQ(FormatMirrorProgress(mirror), "running: 1 GiB of 4 GiB done, 3 GiB left, 300 MiB/s");
  mirror.figures.dirty_rate = 5.0 * kMiB;
  mirror.figures.copy_mode = CopyMode::kWriteBlocking;
  EXPECT_EQ(FormatMirrorProgress(mirror),
            "running: 1 GiB of 4 GiB done, 3 GiB left, 300 MiB/s, guest writes 5 MiB/s, write-blocking");
}

TEST(MirrorTextTest, OneThatWaitsSaysWhyAndNoRate) {
  MirrorStatus mirror = Running();
  mirror.figures.state = MirrorState::kPaused;
  EXPECT_EQ(FormatMirrorProgress(mirror), "paused: 1 GiB of 4 GiB done, 3 GiB left");
  mirror.figures.cause = "/images/new.img: write: No space left on device";
  EXPECT_EQ(FormatLastMirror(mirror),
            "to /images/new.img: paused: 1 GiB of 4 GiB done, 3 GiB left; /images/new.img: write: No space left on "
            "device");
}

TEST(MirrorTextTest, EachEndSaysWhatBecameOfBoth) {
  MirrorStatus mirror = Running();
  mirror.over = true;
  mirror.figures.state = MirrorState::kCompleted;
  mirror.end = MirrorEnd::kDisk;
  EXPECT_EQ(FormatMirrorEnd(mirror),
            "root is /images/new.img now; the old image is closed, and as it was at that instant");
  EXPECT_EQ(FormatLastMirror(mirror), "to /images/new.img: completed: " + FormatMirrorEnd(mirror));
  mirror.end = MirrorEnd::kKept;
  EXPECT_EQ(FormatMirrorEnd(mirror), "/images/new.img is a whole copy of root; the machine stays with its own image");
  mirror.end = MirrorEnd::kRemoved;
  EXPECT_EQ(FormatMirrorEnd(mirror), "root stays with its own image; /images/new.img was removed");
  mirror.end = MirrorEnd::kLeft;
  mirror.result = absl::UnknownError("/images/new.img: write: Input/output error");
  mirror.figures.state = MirrorState::kFailed;
  EXPECT_EQ(FormatLastMirror(mirror),
            "to /images/new.img: failed: /images/new.img: write: Input/output error; root stays with its own image; "
            "/images/new.img is no whole copy");
}

TEST(MirrorTextTest, AccountHasARowForWhatThereWas) {
  MirrorStatus mirror = Running();
  EXPECT_EQ(FormatMirrorAccount(mirror),
            "target         /images/new.img: file, made here\n"
            "time           3.000 s\n"
            "copied         1 GiB, 512 MiB of it zero, 1 MiB more than once\n"
            "mode           background\n");
  mirror.figures.ready_after = absl::Milliseconds(2500);
  mirror.figures.copy_mode = CopyMode::kWriteBlocking;
  mirror.figures.held_writes = 7;
  mirror.figures.errors = 2;
  mirror.standstill = absl::Microseconds(1500);
  EXPECT_EQ(FormatMirrorAccount(mirror),
            "target         /images/new.img: file, made here\n"
            "time           3.000 s, ready after 2.500 s\n"
            "standstill     1.500 ms, of the disk only\n"
            "copied         1 GiB, 512 MiB of it zero, 1 MiB more than once\n"
            "mode           write-blocking, 7 writes waited for the target\n"
            "errors         2\n");
}

TEST(MirrorTextTest, JsonHasNullForWhatThereWasNot) {
  EXPECT_TRUE(MirrorJson(MirrorStatus()).is_null());
  MirrorStatus mirror = Running();
  auto json = MirrorJson(mirror);
  EXPECT_EQ(json["disk"], "root");
  EXPECT_EQ(json["state"], "running");
  EXPECT_EQ(json["copied_bytes"], 1024 * kMiB);
  for (const char* name : {"ready_after_seconds", "cause", "error", "end", "standstill_seconds"}) {
    EXPECT_TRUE(json[name].is_null()) << name;
  }
  mirror.over = true;
  mirror.end = MirrorEnd::kDisk;
  mirror.standstill = absl::Milliseconds(1);
  mirror.figures.ready_after = absl::Seconds(1);
  json = MirrorJson(mirror);
  EXPECT_EQ(json["end"], "disk");
  EXPECT_EQ(json["standstill_seconds"], 0.001);
  EXPECT_EQ(json["ready_after_seconds"], 1.0);
}

}  // namespace
}  // namespace ferrite
