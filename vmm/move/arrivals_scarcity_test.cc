// An arrival that does not begin.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "tests/fakes/acceptor_of.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/scarcity.h"
#include "vmm/move/arrivals.h"

namespace ferrite {
namespace {

TEST(ArrivalsScarcityTest, ArrivalWithoutAThreadShowsNothing) {
  std::string directory = "/tmp/ferrite-arrivals-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  const absl::Cleanup remove = [&] { rmdir(directory.c_str()); };
  auto listener =
      migration::Listener::Create({.kind = migration::Address::Kind::kUnix, .path = absl::StrCat(directory, "/s")});
  ASSERT_TRUE(listener.ok()) << listener.status();
  FakeDestination there(MemoryBacking::kMemfd);
  auto acceptor = migration::AcceptorOf(*std::move(listener));
  const auto view = std::make_shared<ArrivalView>();
  const Scarcity scarcity(Scarce::kThreads, 1);
  const auto incoming = Incoming::Start(there, {}, std::move(acceptor), view);
  EXPECT_TRUE(absl::StartsWith(incoming.status().message(), "make the thread receive: ")) << incoming.status();
  EXPECT_EQ(view->status().number, 0u) << "the session that it showed is gone";
}

}  // namespace
}  // namespace ferrite
