#include "migration/channel/socket/dialer.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/fd.h"
#include "base/monotonic.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "tests/fakes/accepting.h"
#include "tests/fakes/silent_place.h"

namespace ferrite::migration {
namespace {

TEST(DialerTest, FurtherConnectionsGoWhereTheFirstOneWent) {
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  const SilentPlace silent;
  std::vector<Endpoint> places = {silent.endpoint(), PlaceOf(**listener)};
  int asked = 0;
  Dialer dialer(RealClock(), [&](const Address&) {
    ++asked;
    return places;
  });
  const Address name = *ParseAddress("tcp:name:1");
  ASSERT_TRUE(dialer.Connect(name, absl::Hours(1), *cancel).ok());
  EXPECT_EQ(asked, 1);
  const MonotonicTime start = MonotonicTime::Now();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(dialer.Connect(name, absl::Hours(1), *cancel).ok());
  }
  EXPECT_EQ(asked, 1);
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(4)) << "the silent place is not waited for again";
  // Another name is another place.
  ASSERT_TRUE(dialer.Connect(*ParseAddress("tcp:other:1"), absl::Hours(1), *cancel).ok());
  EXPECT_EQ(asked, 2);
}

TEST(DialerTest, TheNameIsLookedUpAgainWhereNobodyAnswersAnyMore) {
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  auto listener = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  std::vector<Endpoint> places = {PlaceOf(**listener)};
  Dialer dialer(RealClock(), [&](const Address&) { return places; });
  const Address name = *ParseAddress("tcp:name:1");
  ASSERT_TRUE(dialer.Connect(name, absl::Hours(1), *cancel).ok());
  auto moved = Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  ASSERT_TRUE(moved.ok()) << moved.status();
  places = {PlaceOf(**moved)};
  listener->reset();
  ASSERT_TRUE(dialer.Connect(name, absl::Hours(1), *cancel).ok());
  EXPECT_TRUE(Accept(**moved, *cancel).ok());
}

}  // namespace
}  // namespace ferrite::migration
