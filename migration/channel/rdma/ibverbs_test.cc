#include "migration/channel/rdma/ibverbs.h"

#include <unistd.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/thread_maker.h"
#include "gtest/gtest.h"
#include "migration/channel/rdma/ibverbs_listener.h"
#include "migration/channel/rdma/rdma_library.h"

namespace ferrite::migration {
namespace {

// What needs a device is in //tests/nested:rdma_nested_test.

TEST(RdmaLibraryTest, SaysWhatToInstallWhereItIsNotThere) {
  for (const auto& library : {RdmaLibrary::LoadFrom("libnone-such.so.1", "librdmacm.so.1"),
                              RdmaLibrary::LoadFrom("libibverbs.so.1", "libnone-such.so.1")}) {
    EXPECT_EQ(library.status().code(), absl::StatusCode::kUnavailable) << library.status();
    EXPECT_TRUE(absl::StrContains(library.status().message(), "libnone-such.so.1")) << library.status();
    EXPECT_TRUE(absl::StrContains(library.status().message(), "install")) << library.status();
  }
  const auto other = RdmaLibrary::LoadFrom("libm.so.6", "librdmacm.so.1");
  EXPECT_EQ(other.status().code(), absl::StatusCode::kUnavailable) << other.status();
}

TEST(IbverbsTest, AHostWithoutADeviceSaysSo) {
  if (access("/dev/infiniband/rdma_cm", F_OK) == 0) GTEST_SKIP() << "this host has RDMA";
  ThreadMaker threads;
  const auto verbs = LoadIbverbs(RealClock(), threads);
  ASSERT_TRUE(verbs.ok()) << verbs.status();
  const EventFd cancel = *EventFd::Create();
  for (const Verbs::End end : {Verbs::End::kHere, Verbs::End::kThere}) {
    const auto domain = (*verbs)->Open("127.0.0.1", end, RealClock().Now() + absl::Seconds(20), cancel);
    EXPECT_EQ(domain.status().code(), absl::StatusCode::kUnavailable) << domain.status();
    EXPECT_TRUE(absl::StrContains(domain.status().message(), "no RDMA device")) << domain.status();
  }
  const auto devices = (*verbs)->Devices();
  ASSERT_TRUE(devices.ok()) << devices.status();
  EXPECT_TRUE(devices->empty()) << "a kernel without RDMA has none";
}

TEST(GreetingTest, ComesBackFromWhatIsPadded) {
  for (const std::string& greeting : {std::string(), std::string("\0x\0", 3), std::string(kMostGreeting, 'x')}) {
    EXPECT_EQ(UnpackGreeting(PackGreeting(greeting)), greeting);
    EXPECT_EQ(UnpackGreeting(PackGreeting(greeting) + std::string(5, '\0')), greeting);
  }
}

// R11: it comes from who wants to connect.
TEST(GreetingTest, WhatIsNoneIsNone) {
  for (const std::string& said : {std::string(), std::string("\1"), std::string("\3ab"), std::string(1, kMostGreeting),
                                  std::string(60, kMostGreeting + 1), std::string(255, '\xff')}) {
    EXPECT_FALSE(UnpackGreeting(said).has_value());
  }
}

}  // namespace
}  // namespace ferrite::migration
