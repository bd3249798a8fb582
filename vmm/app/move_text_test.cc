#include "vmm/app/move_text.h"

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
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

TEST(MoveTextTest, MoveThatStandsStillSaysWhatIsMissingAndWhatToType) {
  MoveStatus move = In(MoveState::kFailed, 2);
  move.number = 1;
  move.where = "tcp:there:4000";
  EXPECT_FALSE(IsHandedOver(move));
  move.over = true;
  move.guest = GuestPlace::kHandedOver;
  move.result = absl::UnavailableError("the guest was handed over to tcp:there:4000, then: gone");
  move.progress.remaining_bytes = 24 << 20;
  move.progress.granted_for = absl::Seconds(133);
  EXPECT_TRUE(IsHandedOver(move));
  EXPECT_EQ(FormatLastMove("web1", move),
            absl::StrCat(FormatMoveFailure("web1", move),
                         ". It was handed over 2m13s ago. 24 MiB are missing there, as far as is known here"));
  EXPECT_EQ(MoveJson(move)["handed_over_for_seconds"], 133.0);
  move.guest = GuestPlace::kHereRunning;
  EXPECT_FALSE(MoveJson(move).contains("handed_over_for_seconds"));
  EXPECT_EQ(FormatLastMove("web1", move), "the guest was handed over to tcp:there:4000, then: gone");
  move.result = absl::OkStatus();
  EXPECT_EQ(FormatLastMove("web1", move), "done");

  MoveStatus arrival = In(MoveState::kPostcopyActive, 0);
  arrival.number = 1;
  EXPECT_FALSE(MissesMemory(arrival));
  EXPECT_EQ(FormatArrivalState("web1", arrival), "not yet: postcopy-active");
  arrival.progress.state = MoveState::kPostcopyPaused;
  arrival.progress.granted_for = absl::Seconds(5);
  EXPECT_TRUE(MissesMemory(arrival));
  EXPECT_EQ(FormatArrivalState("web1", arrival),
            "not yet: postcopy-paused: the connection to the source is lost. The guest came here 5s ago, and runs on "
            "until it needs memory that is missing. `ferrite recover web1` at the source goes on; `ferrite stop web1` "
            "ends it here");
  EXPECT_EQ(ArrivalJson(arrival)["here_for_seconds"], 5.0);
  arrival.over = true;
  EXPECT_FALSE(ArrivalJson(arrival).contains("here_for_seconds"));
  EXPECT_EQ(FormatArrivalState("web1", arrival), "by pre-copy");
}

TEST(MoveTextTest, AccountSaysWhichChannelsWereUsedAndWhy) {
  const auto line = [](uint32_t used, uint32_t open, std::vector<uint64_t> rates) {
    migration::MoveReport report;
    report.channels = used;
    report.open_channels = open;
    report.counted_channels = true;
    report.channel_rates = std::move(rates);
    const std::string account = FormatMoveAccount(report);
    const size_t start = account.find("channels ");
    return account.substr(start, account.find('\n', start) - start);
  };
  constexpr uint64_t kMiB = 1 << 20;
  EXPECT_EQ(line(1, 8, {}), "channels       1 of 8: too little went to measure");
  EXPECT_EQ(line(1, 8, {100 * kMiB, 101 * kMiB}),
            "channels       1 of 8: 1 carried 100 MiB/s, 2 carried 101 MiB/s, too little more");
  EXPECT_EQ(line(3, 8, {100 * kMiB, 200 * kMiB}),
            "channels       3 of 8: 1 carried 100 MiB/s, 2 carried 200 MiB/s; too little went to try more");
  EXPECT_EQ(line(2, 2, {100 * kMiB, 200 * kMiB}),
            "channels       2 of 2: 1 carried 100 MiB/s, 2 carried 200 MiB/s; no more processors here");
  EXPECT_EQ(line(1, 1, {}), "channels       1 of 1; no more processors here");
  EXPECT_EQ(line(8, 8, {100 * kMiB}), "channels       8 of 8: 1 carried 100 MiB/s; no more are tried");
  migration::MoveReport report;
  report.channels = report.open_channels = 4;
  EXPECT_FALSE(absl::StrContains(FormatMoveAccount(report), "channels")) << "they were asked for";
}

TEST(MoveTextTest, BothAccountsSayThatChannelsBroke) {
  migration::MoveReport report;
  EXPECT_FALSE(absl::StrContains(FormatArrival(report), "channels"));
  report.broken_channels = 2;
  for (const std::string& account : {FormatMoveAccount(report), FormatArrival(report)}) {
    EXPECT_TRUE(absl::StrContains(account, "\nchannels       2 broke behind the switchover; the others went on\n"))
        << account;
  }
}

TEST(MoveTextTest, EachDiskHasALine) {
  migration::MoveReport report;
  report.parts = {{.name = "disk root",
                   .bytes = uint64_t{4} << 30,
                   .data_bytes = uint64_t{1} << 30,
                   .zero_bytes = uint64_t{3} << 30,
                   .again_bytes = uint64_t{12} << 20,
                   .ready_after = absl::Milliseconds(1234)},
                  {.name = "disk data", .bytes = 1 << 20, .shared = true}};
  EXPECT_TRUE(absl::StrContains(FormatMoveAccount(report),
                                "disk root      4 GiB: 1 GiB data, 3 GiB zero, 12 MiB twice, ready after 1234.0 ms\n"
                                "disk data      1 MiB: not copied, both sides reach it\n"))
      << FormatMoveAccount(report);
  report.parts[0].write_blocking = true;
  EXPECT_TRUE(absl::StrContains(FormatMoveAccount(report),
                                "ready after 1234.0 ms, and then its writes waited for the destination\n"))
      << FormatMoveAccount(report);
  MoveStatus move = In(MoveState::kActive, 0);
  move.progress.parts = report.parts;
  EXPECT_EQ(MoveJson(move)["parts"].dump(),
            R"([{"name":"disk root","bytes":4294967296,"shared":false,"data_bytes":1073741824,)"
            R"("zero_bytes":3221225472,"twice_bytes":12582912,"ready_seconds":1.234,"write_blocking":true},)"
            R"({"name":"disk data","bytes":1048576,"shared":true,"data_bytes":0,"zero_bytes":0,"twice_bytes":0,)"
            R"("ready_seconds":null,"write_blocking":false}])");
}

TEST(MoveTextTest, ProgressSaysThatDisksGoFirst) {
  MoveStatus move = In(MoveState::kActive, 2);
  move.progress.sent_bytes = 1 << 20;
  move.progress.remaining_bytes = 3 << 20;
  move.progress.rate = 2 << 20;
  move.progress.parts = {{.name = "disk root", .bytes = 4 << 20}, {.name = "disk data", .shared = true}};
  EXPECT_EQ(FormatMoveProgress(move), "active, disks first: 1 MiB sent, 3 MiB left, 2 MiB/s");
  move.progress.parts[0].write_blocking = true;
  EXPECT_EQ(FormatMoveProgress(move), "active, disks first: 1 MiB sent, 3 MiB left, 2 MiB/s, writes wait");
  move.progress.parts[0].ready_after = absl::Seconds(1);
  EXPECT_TRUE(absl::StartsWith(FormatMoveProgress(move), "active, round 2: ")) << FormatMoveProgress(move);
}

// Scripts read these names.
TEST(MoveTextTest, JsonHasEveryFigureUnderItsName) {
  MoveStatus move = In(MoveState::kCompleted, 1);
  move.over = true;
  move.guest = GuestPlace::kThere;
  migration::MoveReport& report = move.report;
  report.postcopy = true;
  report.total = absl::Seconds(1);
  report.downtime = absl::Seconds(2);
  report.stop = absl::Seconds(3);
  report.last_pages = absl::Seconds(4);
  report.state = absl::Seconds(5);
  report.send = absl::Seconds(6);
  report.load = absl::Seconds(7);
  report.run = absl::Seconds(8);
  report.rounds = 9;
  report.data_pages = 10;
  report.zero_pages = 11;
  report.skipped_pages = 12;
  report.resent_pages = 13;
  report.bytes = 14;
  report.faults = 15;
  report.minor_faults = 16;
  report.requested_pages = 17;
  report.prefetched_pages = 18;
  report.prefetch_hits = 19;
  report.duplicate_pages = 20;
  report.copied_pages = 21;
  report.moved_pages = 27;
  report.huge_bytes = 28;
  report.compacted_blocks = 29;
  report.recoveries = 22;
  report.channels = 32;
  report.open_channels = 33;
  report.counted_channels = true;
  report.channel_rates = {34, 35};
  report.broken_channels = 31;
  report.lost_pages = 30;
  report.lost_at = {4096, 8192};
  report.downtime_limit = absl::Seconds(23);
  report.source_wait = absl::Seconds(24);
  report.destination_wait = absl::Seconds(25);
  report.entry_wait = absl::Seconds(26);
  EXPECT_EQ(
      MoveJson(move)["report"].dump(),
      R"({"postcopy":true,"total_seconds":1.0,"downtime_seconds":2.0,"downtime_limit_seconds":23.0,)"
      R"("source_wait_seconds":24.0,"destination_wait_seconds":25.0,"entry_wait_seconds":26.0,"downtime_parts":{"stop_seconds":3.0,)"
      R"("last_pages_seconds":4.0,"state_seconds":5.0,"send_seconds":6.0,"load_seconds":7.0,"run_seconds":8.0},)"
      R"("too_long":"waiting for a processor","rounds":9,"data_pages":10,"zero_pages":11,"skipped_pages":12,"twice_pages":13,"bytes":14,"faults":15,)"
      R"("minor_faults":16,"requested_pages":17,"prefetched_pages":18,"prefetch_hits":19,"duplicate_pages":20,)"
      R"("huge_bytes":28,"lost_pages":30,"recoveries":22,"channels":32,"open_channels":33,"broken_channels":31,)"
      R"("counted_channels":true,"channel_rates":[34,35],"lost_at":[4096,8192],"waiting":[]})");
  EXPECT_EQ(
      ArrivalJson(move).dump(),
      R"({"over":true,"state":"completed","ok":true,"message":"","postcopy":true,"destination_wait_seconds":25.0,)"
      R"("entry_wait_seconds":26.0,"load_seconds":7.0,)"
      R"("run_seconds":8.0,"data_pages":10,"zero_pages":11,"bytes":14,"faults":15,"minor_faults":16,)"
      R"("duplicate_pages":20,"copied_pages":21,"moved_pages":27,"huge_bytes":28,"compacted_blocks":29,)"
      R"("lost_pages":30,"broken_channels":31,"lost_at":[4096,8192],"waiting":[]})");
}

TEST(MoveTextTest, AccountNamesTheWaitForProcessorsAndWhatTookTooLong) {
  migration::MoveReport report;
  report.downtime = absl::Milliseconds(9);
  report.stop = absl::Milliseconds(9);
  report.downtime_limit = absl::Milliseconds(5);
  report.source_wait = absl::Milliseconds(1);
  report.destination_wait = absl::Milliseconds(2);
  report.entry_wait = absl::Milliseconds(1);
  const std::string account = FormatMoveAccount(report);
  EXPECT_TRUE(absl::StrContains(
      account,
      "waited         for a processor: 1.00 ms here, 2.00 ms there, 1.00 ms until the guest ran there\n"
      "too long       more than the limit of 5 ms: stop\n"))
      << account;
  EXPECT_TRUE(absl::StrContains(FormatArrival(report),
                                "waited         for a processor: 2.00 ms, 1.00 ms until the guest ran\n"));
  report.copied_pages = 12;
  report.moved_pages = 1024;
  EXPECT_TRUE(absl::StrContains(
      FormatArrival(report),
      "landed         12 pages through a buffer, 1024 that changed hands with their block of 2 MiB\n"));
  EXPECT_FALSE(absl::StrContains(FormatArrival(report), "huge pages"));
  report.huge_bytes = uint64_t{64} << 20;
  report.compacted_blocks = 3;
  EXPECT_TRUE(absl::StrContains(
      FormatArrival(report),
      "huge pages     64 MiB of the guest's memory; 3 blocks of 2 MiB came in pieces and were made whole\n"));
  EXPECT_TRUE(
      absl::StrContains(FormatMoveAccount(report), "huge pages     64 MiB of the guest's memory before it moved\n"));
  EXPECT_FALSE(absl::StrContains(FormatMoveAccount(report), "lost pages"));
  report.lost_pages = 2;
  report.lost_at = {0x1000000, 0x1003000};
  EXPECT_TRUE(absl::StrContains(FormatMoveAccount(report), "lost pages     2: 0x1000000 0x1003000\n"));
  report.lost_pages = 3;
  EXPECT_TRUE(absl::StrContains(FormatArrival(report), "lost pages     3: 0x1000000 0x1003000, and others\n"));
  EXPECT_FALSE(absl::StrContains(FormatMoveAccount(report), "channels"));
  report.broken_channels = 2;
  for (const std::string& told : {FormatMoveAccount(report), FormatArrival(report)}) {
    EXPECT_TRUE(absl::StrContains(told, "channels       2 broke behind the switchover; the others went on\n")) << told;
  }
  report.downtime_limit = report.downtime + report.entry_wait;
  EXPECT_FALSE(absl::StrContains(FormatMoveAccount(report), "too long"));
}

}  // namespace
}  // namespace ferrite
