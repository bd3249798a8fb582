// A guest goes from the newest monitor to a peer that was written when version 2 of the wire was frozen, and has not
// changed since, and from there to another newest monitor: what the frozen version says is understood, in both
// directions, and what is not of it is not said. The guest itself knows what must be in every page (R1).
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/thread.h"
#include "migration/api/move_options.h"
#include "migration/channel/socket/address.h"
#include "tests/compat/version2_giver.h"
#include "tests/compat/version2_taker.h"
#include "tests/fakes/test_place.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/tls_place.h"
#include "tests/integration/moving_payload.h"

namespace ferrite {
namespace {

using migration::MoveMode;
using version2::Way;

constexpr uint64_t kMiB = uint64_t{1} << 20;
// That the guest works in, of its memory.
const uint64_t kWorkMib = ForPlace(16, 4);

enum class Over { kUnix, kTcp, kTls };

struct Kind {
  const char* name;
  Way way;  // both times
  Over over;
  uint64_t features = version2::kAllFeatures;  // that the peer has
  uint16_t channels = 1;
  MemoryBacking backing = MemoryBacking::kAnonymous;
};

class Version2MoveTest : public testing::TestWithParam<Kind> {
 protected:
  MoveResult ByWayOfPeer(const migration::Address& destination,
                         const std::function<MoveResult(const migration::Address&)>& leave);
  MoveTry Attempt();

  std::unique_ptr<MovingPayload> moving_;
  std::optional<migration::TlsPlace> tls_;
  version2::Taker::Figures taken_;
  version2::GiveFigures given_;
};

MoveResult Version2MoveTest::ByWayOfPeer(const migration::Address& destination,
                                         const std::function<MoveResult(const migration::Address&)>& leave) {
  const Kind& kind = GetParam();
  std::unique_ptr<version2::Tls> as_destination;
  std::unique_ptr<version2::Tls> as_source;
  if (tls_.has_value()) {
    as_destination = std::make_unique<version2::Tls>(tls_->directory(), version2::Tls::Side::kDestination);
    as_source = std::make_unique<version2::Tls>(tls_->directory(), version2::Tls::Side::kSource);
  }
  auto taker = version2::Taker::Create(
      kind.over == Over::kUnix ? absl::StrCat("unix:", moving_->directory(), "/version2") : "tcp:127.0.0.1:0",
      {.features = kind.features, .tls = as_destination.get()});
  if (!taker.ok()) {
    return {.source = taker.status()};
  }
  const migration::Address address = *migration::ParseAddress((*taker)->address());
  absl::StatusOr<version2::Guest> guest;
  MoveResult result;
  {
    const Thread taking = StartOrDie("version2-taker", [&] {
      guest = (*taker)->Take();
      taken_ = (*taker)->figures();
      if (!guest.ok()) {
        // Nobody is at the address any more.
        taker->reset();
      }
    });
    result = leave(address);
  }
  if (!guest.ok()) {
    result.source = absl::Status(guest.status().code(), absl::StrCat("to the peer: ", guest.status().message(),
                                                                     "; its source: ", result.source.message()));
  }
  if (!result.source.ok()) {
    return result;
  }
  auto given = version2::Give(
      *guest, destination.ToString(),
      {.way = kind.way, .features = kind.features, .page_channels = kind.channels, .tls = as_source.get()});
  result.source = Annotate(given.status(), "from the peer");
  given_ = given.ok() ? *given : given_;
  return result;
}

MoveTry Version2MoveTest::Attempt() {
  const Kind& kind = GetParam();
  MoveTry attempt{
      .options = {.mode = kind.way == Way::kPrecopy    ? MoveMode::kPrecopy
                          : kind.way == Way::kPostcopy ? MoveMode::kPostcopy
                                                       : MoveMode::kAuto,
                  .channels = kind.channels,
                  // A peer that fails does not come back.
                  .recover_for = absl::Seconds(1)},
      .tcp = kind.over != Over::kUnix,
      .by_way_of = [this](const auto& destination, const auto& leave) { return ByWayOfPeer(destination, leave); }};
  if (tls_.has_value()) {
    attempt.source_security = tls_->source();
    attempt.destination_security = tls_->destination();
  }
  if (kind.way == Way::kBoth) {
    // Rounds of a guest that never has little enough left: some of what went is out of date by the switchover.
    attempt.options.max_bandwidth = ForPlace(64, 8) * kMiB;
    attempt.options.downtime_limit = absl::Milliseconds(1);
    attempt.during = [](migration::Source& source, const migration::MoveProgress& progress) {
      if (progress.state == migration::MoveState::kActive && progress.round == 3) {
        (void)source.StartPostcopy();
      }
    };
  }
  return attempt;
}

TEST_P(Version2MoveTest, ThereAndOn) {
  const Kind& kind = GetParam();
  MachineConfig config;
  config.cpus = 2;
  config.memory_bytes = 64 * kMiB;
  config.memory_backing = kind.backing;
  config.command_line =
      absl::StrCat(kind.way == Way::kBoth ? "mode=random" : "mode=step", " set=", kWorkMib, "M report_ms=10",
                   // One that pre-copy keeps up with, also over TLS.
                   kind.way == Way::kPrecopy ? ForPlace(" rate=2000", " rate=50")
                   : kind.way == Way::kBoth  ? ForPlace(" rate=2000", " rate=500")
                                             : "");
  auto run = MovingPayload::Run("dirty", config);
  ASSERT_TRUE(run.ok()) << run.status();
  moving_ = *std::move(run);
  ASSERT_TRUE(moving_->here().WaitFor("filled").ok());
  if (kind.over == Over::kTls) {
    tls_.emplace();
  }

  const MoveResult result = moving_->Move(Attempt());
  ASSERT_TRUE(result.source.ok()) << result.source;
  ASSERT_TRUE(result.destination.ok()) << result.destination;
  EXPECT_EQ(result.source_state, migration::MoveState::kCompleted);
  EXPECT_EQ(result.destination_state, migration::MoveState::kCompleted);
  const auto check = moving_->here().Check();
  EXPECT_TRUE(check.ok()) << check.status();

  // What the newest monitor did with the peer is what was wanted.
  const bool has_rest = kind.way != Way::kPrecopy;
  EXPECT_EQ(taken_.features, kind.features) << "the newest source offers all features of version 2";
  EXPECT_EQ(given_.features, kind.features) << "the newest destination has all features of version 2";
  EXPECT_EQ(taken_.page_channels, kind.channels);
  EXPECT_EQ(taken_.postcopy, has_rest);
  if (kind.way != Way::kPostcopy) {
    EXPECT_GE(taken_.round_pages, kWorkMib * kMiB / version2::kPage);
  }
  if (has_rest) {
    EXPECT_GT(taken_.urgent_pages, 0u);
    EXPECT_GT(taken_.rest_pages, taken_.urgent_pages);
    EXPECT_GT(given_.requests, 0u);
    EXPECT_GT(given_.faults, 0u);
  }
  if (kind.way == Way::kBoth) {
    EXPECT_GT(taken_.discarded_pages, 0u);
  }
}

constexpr uint64_t kFewFeatures = version2::kPostcopy | version2::kPoisonedPages;

INSTANTIATE_TEST_SUITE_P(
    All, Version2MoveTest,
    testing::Values(
        Kind{.name = "Precopy", .way = Way::kPrecopy, .over = Over::kUnix},
        Kind{.name = "PrecopyWithoutFeatures", .way = Way::kPrecopy, .over = Over::kTcp, .features = 0},
        Kind{.name = "PrecopyTls", .way = Way::kPrecopy, .over = Over::kTls, .channels = 2},
        Kind{.name = "Postcopy", .way = Way::kPostcopy, .over = Over::kUnix},
        Kind{.name = "PostcopyTwoChannels",
             .way = Way::kPostcopy,
             .over = Over::kTcp,
             .channels = 2,
             .backing = MemoryBacking::kMemfd},
        Kind{.name = "PostcopyFewFeatures", .way = Way::kPostcopy, .over = Over::kTcp, .features = kFewFeatures},
        Kind{.name = "PostcopyTls", .way = Way::kPostcopy, .over = Over::kTls},
        Kind{.name = "Both", .way = Way::kBoth, .over = Over::kUnix},
        Kind{.name = "BothFewFeatures", .way = Way::kBoth, .over = Over::kTcp, .features = kFewFeatures, .channels = 2},
        Kind{.name = "BothTls", .way = Way::kBoth, .over = Over::kTls, .channels = 2}),
    [](const testing::TestParamInfo<Kind>& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace ferrite
