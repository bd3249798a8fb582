#include "migration/api/downtime.h"

#include <gtest/gtest.h>

#include <optional>
#include <utility>

#include "absl/time/time.h"

namespace ferrite::migration {
namespace {

constexpr absl::Duration kMs = absl::Milliseconds(1);

// Ten milliseconds, of which the sending of the last pages takes most.
MoveReport Report() {
  MoveReport report;
  report.downtime_limit = 5 * kMs;
  report.downtime = 10 * kMs;
  report.stop = 1 * kMs;
  report.last_pages = 4 * kMs;
  report.state = 1 * kMs;
  report.send = 2 * kMs;
  report.load = 1 * kMs;
  report.run = 1 * kMs;
  return report;
}

TEST(DowntimeTest, NothingTookTooLongWithinTheLimit) {
  MoveReport report = Report();
  report.downtime_limit = report.downtime;
  EXPECT_EQ(WhatTookTooLong(report), std::nullopt);
  report.downtime_limit = absl::ZeroDuration();
  EXPECT_EQ(WhatTookTooLong(report), std::nullopt) << "no move was made";
}

TEST(DowntimeTest, NamesTheLongestPart) {
  using Member = absl::Duration MoveReport::*;
  const std::pair<Member, const char*> parts[] = {
      {&MoveReport::stop, "stop"},   {&MoveReport::last_pages, "last pages"},
      {&MoveReport::state, "state"}, {&MoveReport::send, "send"},
      {&MoveReport::load, "load"},   {&MoveReport::run, "run"}};
  for (const auto& [part, name] : parts) {
    MoveReport report = Report();
    report.*part = 7 * kMs;
    EXPECT_EQ(WhatTookTooLong(report), name);
  }
}

TEST(DowntimeTest, NamesTheWaitForAProcessorWhereItWasMoreThanTheRest) {
  for (absl::Duration MoveReport::*wait : {&MoveReport::source_wait, &MoveReport::destination_wait}) {
    MoveReport report = Report();
    report.*wait = 5 * kMs;
    EXPECT_EQ(WhatTookTooLong(report), "last pages");
    report.*wait = 6 * kMs;
    EXPECT_EQ(WhatTookTooLong(report), "waiting for a processor");
  }
}

TEST(DowntimeTest, GuestThatIsSaidToRunButGetsNoProcessorStandsStill) {
  MoveReport report = Report();
  report.downtime_limit = report.downtime;
  report.entry_wait = 9 * kMs;
  EXPECT_EQ(WhatTookTooLong(report), "last pages");
  report.entry_wait = 11 * kMs;
  EXPECT_EQ(WhatTookTooLong(report), "waiting for a processor");
}

}  // namespace
}  // namespace ferrite::migration
