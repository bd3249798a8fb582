#include "vmm/app/move_text.h"

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

using migration::MoveState;

MoveStatus In(MoveState state, uint32_t round) {
  MoveStatus move;
  move.number = 1;
  move.where = "tcp:there:4000";
  move.progress.state = state;
  move.progress.round = round;
  return move;
}

TEST(MoveTextTest, ProgressTellsOfMemoryWhenThereIsSome) {
  EXPECT_EQ(FormatMoveProgress(In(MoveState::kSetup, 0)), "setup");
  EXPECT_EQ(FormatMoveProgress(In(MoveState::kActive, 0)), "active");
  MoveStatus postcopy = In(MoveState::kDevice, 0);
  postcopy.progress.sent_bytes = 256;
  postcopy.progress.remaining_bytes = 64 << 20;
  EXPECT_EQ(FormatMoveProgress(postcopy), "device: 64 MiB left");
  MoveStatus round = In(MoveState::kActive, 2);
  round.progress.sent_bytes = 512 << 20;
  round.progress.remaining_bytes = 12 << 20;
  round.progress.rate = 1 << 20;
  EXPECT_EQ(FormatMoveProgress(round), "active, round 2: 512 MiB sent, 12 MiB left, 1 MiB/s");
  round.progress.state = MoveState::kPostcopyActive;
  round.progress.faults = 3;
  EXPECT_EQ(FormatMoveProgress(round), "postcopy-active, round 2: 512 MiB sent, 12 MiB left, 1 MiB/s, 3 faults");
}

TEST(MoveTextTest, GuestThatWasPausedIsNotSaidToRun) {
  MoveStatus move;
  move.where = "tcp:there:4000";
  move.guest = GuestPlace::kThere;
  EXPECT_EQ(FormatGuestPlace("web1", move), "web1 runs at tcp:there:4000");
  move.guest = GuestPlace::kTherePaused;
  EXPECT_EQ(FormatGuestPlace("web1", move), "web1 is at tcp:there:4000, paused");
}

TEST(MoveTextTest, FailureSaysOnceWhereTheGuestIs) {
  MoveStatus move = In(MoveState::kFailed, 0);
  move.guest = GuestPlace::kHereRunning;
  move.result = absl::UnavailableError("nobody there");
  EXPECT_EQ(FormatMoveFailure("web1", move), "nobody there; web1 runs on here");
  move.guest = GuestPlace::kHerePaused;
  EXPECT_EQ(FormatMoveFailure("web1", move), "nobody there; web1 is here, paused");
  move.guest = GuestPlace::kHereStopped;
  EXPECT_EQ(FormatMoveFailure("web1", move), "nobody there; web1 was here and has stopped");
  move.guest = GuestPlace::kHandedOver;
  move.result = absl::UnavailableError(
      "the guest was handed over to tcp:there:4000, then: gone; this side stays paused and keeps the guest's memory");
  EXPECT_EQ(
      FormatMoveFailure("web1", move),
      "the guest was handed over to tcp:there:4000, then: gone; here it stays paused and keeps its memory. `ferrite "
      "recover web1` goes on when the destination can be reached; `ferrite recover web1 --here` takes it back when "
      "that is gone for good");
}

}  // namespace
}  // namespace ferrite
