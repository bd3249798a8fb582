// A control server that is refused an allocation, at each place where its clients make it ask for one: it goes on, for
// them or for the next.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "tests/fakes/control_place.h"
#include "tests/fakes/fake_machine.h"
#include "tests/fakes/raw_client.h"
#include "tests/fakes/scarcity.h"
#include "vmm/control/client.h"
#include "vmm/control/server.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

class ServerScarcityTest : public ::testing::TestWithParam<Refusals> {
 protected:
  void SetUp() override {
    auto server = ControlServer::Create(place_.Listen(), Target("vm"));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  ControlTarget Target(std::string name) { return {.name = std::move(name), .machine = &machine_}; }

  // Whatever comes of it.
  void UseIt() {
    RawClient raw(place_.dir().socket_path());
    raw.Describe();
    auto client = ControlClient::ConnectToMachine(place_.base(), "vm", absl::Milliseconds(200));
    server_->Publish({MachineEvent::Kind::kPaused, ""});
    if (client.ok() && (*client)->Describe().ok() && (*client)->Pause().ok() && (*client)->StartWatching().ok()) {
      server_->Publish({MachineEvent::Kind::kPaused, ""});
      (void)(*client)->Resume();
    }
  }

  // What it serves for a client that comes.
  std::string NameServed() {
    std::string why;
    for (const MonotonicTime deadline = MonotonicTime::Now() + kPatience; MonotonicTime::Now() < deadline;) {
      if (auto client = ControlClient::ConnectToMachine(place_.base(), "vm", absl::Milliseconds(500)); client.ok()) {
        if (const auto machine = (*client)->Describe(); machine.ok()) {
          return machine->name;
        } else {
          why = machine.status().ToString();
        }
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
    return absl::StrCat("nobody answers: ", why);
  }

  ControlPlace place_;
  FakeMachine machine_{MachineConfig{.name = "vm"}};
  std::unique_ptr<ControlServer> server_;
};

TEST_P(ServerScarcityTest, GoesOnWhicheverAllocationIsRefused) {
  const Plenty plenty;
  uint64_t tried = 0;
  uint64_t refused = 1;
  for (uint64_t nth = 1; refused > 0; nth += 1 + nth / 8, ++tried) {
    SCOPED_TRACE(absl::StrCat(nth, ". refused"));
    const std::string name = absl::StrCat("vm", nth);
    Scarcity scarcity(Scarce::kMemory, nth, GetParam());
    server_->SetTarget(Target(name));
    UseIt();
    scarcity.End();
    refused = scarcity.refused();
    // Soon after: it may not have looked yet.
    std::string served = NameServed();
    for (const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
         served != name && MonotonicTime::Now() < deadline;) {
      served = NameServed();
    }
    ASSERT_EQ(served, name);
    ASSERT_LT(nth, 20000u) << "something is refused that nobody needs";
  }
  EXPECT_GT(tried, 20u);
}

INSTANTIATE_TEST_SUITE_P(All, ServerScarcityTest, testing::Values(Refusals::kOne, Refusals::kAllFromThere),
                         [](const testing::TestParamInfo<Refusals>& info) {
                           return info.param == Refusals::kOne ? "One" : "AllFromThere";
                         });

}  // namespace
}  // namespace ferrite
